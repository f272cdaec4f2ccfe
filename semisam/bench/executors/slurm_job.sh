#!/bin/sh
# The job of one run. SLURM says how many cores it gave; exec: its signals reach the run itself.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}}"
exec "$@"
