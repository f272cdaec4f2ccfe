"""Seconds of one core that a step of SynthSAM's pretraining takes, and what they are spent on.

    python benchmarks/speed_pretrain.py --steps 20 --out benchmarks/results/speed_pretrain.csv

The clock is that of the process, so that other work on the machine counts little. Steps start
from the embedded weights, since dialogues with an untrained network are unlike later ones.
``draw`` is the generation of the volumes; ``train`` all the rest, with the users and the network.
Rows of other versions in the file are kept.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import torch
from rows import write_rows

from semisam.backends.synthsam import EMBEDDED
from semisam.pretraining.pretrain import Pretraining, draw_batch, make_pretrain_settings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--version", default="now", help="shown in the table")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings, weights = make_pretrain_settings(
        {"steps": args.steps + 3, "seed": 7}, str(EMBEDDED[3])
    )
    training = Pretraining(settings, Path(tempfile.mkdtemp()), torch.device("cpu"), weights)
    drawing = learning = volumes = 0.0
    for step in range(args.steps + 3):
        if step == 3:  # the first steps choose kernels
            drawing = learning = volumes = 0.0
        began = time.process_time()
        batch = draw_batch(settings, step)
        drawn = time.process_time()
        training.step = step
        training._train(batch)
        drawing += drawn - began
        learning += time.process_time() - drawn
        volumes += len(batch)
    seconds = (drawing + learning) / args.steps
    row = {
        "version": args.version,
        "steps": args.steps,
        "draw_s": round(drawing / args.steps, 3),
        "train_s": round(learning / args.steps, 3),
        "steps_per_s": round(1 / seconds, 3),
        "volumes_per_s": round(volumes / args.steps / seconds, 3),
    }
    print(row)
    if args.out is not None:
        kept = []
        if args.out.exists():
            with args.out.open() as file:
                kept = [r for r in csv.DictReader(file) if r["version"] != args.version]
        write_rows(args.out, [*kept, row])


if __name__ == "__main__":
    main()
