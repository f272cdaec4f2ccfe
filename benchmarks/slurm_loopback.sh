#!/usr/bin/env bash
# A SLURM of one node on loopback, without accounting, to try executors on: start | stop.
#
# Needs root and Debian's packages: apt-get install slurm-wlm munge
# Everything but munge's key lies in the folder named second (/tmp/semisam-slurm); no other SLURM
# of this machine is touched. To use it: export SLURM_CONF=/tmp/semisam-slurm/slurm.conf
set -euo pipefail

action="${1:-start}"
folder="${2:-/tmp/semisam-slurm}"
export SLURM_CONF="$folder/slurm.conf"
socket="$folder/munge/socket"

stop() {
  for name in slurmd slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then
      pid="$(cat "$folder/$name.pid")"
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 150); do # it saves its state first
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
      done
      rm -f "$folder/$name.pid"
    fi
  done
}

start() {
  mkdir -p "$folder"/{state,spool,munge}
  chmod 755 "$folder" "$folder/munge"
  [ -f "$folder/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")
  munged --force --key-file="$folder/munge.key" --socket="$socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed"
  host="$(hostname -s)"
  cat > "$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$socket
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
ReturnToService=2
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=60 State=UP
CONF
  slurmctld -c
  slurmd
  for _ in $(seq 30); do
    if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
      sinfo
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 1
  done
  echo "the node is not idle after 30 s; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  exit 1
}

case "$action" in
  start)
    stop
    start
    ;;
  stop) stop ;;
  *) echo "usage: $0 start|stop [FOLDER]" >&2 && exit 2 ;;
esac
