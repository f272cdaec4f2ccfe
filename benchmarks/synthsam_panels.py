"""Weights of SynthSAM on fixed synthetic volumes, paired: what decides which are shipped.

    python benchmarks/synthsam_panels.py --weights old=OLD.safetensors,new=NEW.safetensors \
        --out benchmarks/results/synthsam_panels.csv
    python benchmarks/synthsam_panels.py --axes 2 \
        --weights geodesic=geodesic,synthsam=semisam/backends/weights/synthsam2d.safetensors \
        --out benchmarks/results/synthsam2d_panels.csv

Three panels, of volumes of 64x64x48 or of pictures of 128x128: ``plain`` is the stream that
SynthSAM has been validated on from the start. ``hard`` has rims, cavities that join without an
edge, organs cut by the border and a scanner's artefacts as well. The labels of ``off-edge`` also
end off the edge that the image shows. No training draws from any. Dialogues are those of
``semisam zero-shot``, by both kinds of clicks. ``box`` and ``mask`` are the label's box and a
proposal of a poor network. ``geodesic`` in place of a file is the classical segmenter. ``gain`` is
the mean over volumes of the difference to the first weights, ``gain_se`` its standard error. Scores
of a file that are in ``--cache`` already are not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from rows import write_rows

from semisam.backends._synthsam.session import Session
from semisam.backends.geodesic import Geodesic
from semisam.backends.synthsam import SynthSAM
from semisam.bench.clicks import interact
from semisam.core.masks import dice
from semisam.core.types import Prompt
from semisam.pretraining.generator import draw_volume
from semisam.pretraining.pretrain import VALIDATION

COUNTS = (1, 2, 5, 10)
COLUMNS = [f"{kind} {count}" for kind in ("published", "random") for count in COUNTS]
COLUMNS += ["box", "mask"]
PANELS = {"plain": {}, "hard": {"hard": True}, "off-edge": {"hard": True, "off_edge": True}}
SHAPES = {2: (128, 128), 3: (64, 64, 48)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, metavar="NAME=FILE,...")
    parser.add_argument("--axes", type=int, choices=SHAPES, default=3)
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--skip", type=int, default=600)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = dict(pair.split("=") for pair in args.weights.split(","))
    rows = []
    for panel in PANELS:
        base = None
        for name, file in files.items():
            scores = 100 * cached(file, panel, args)
            base = scores if base is None else base
            gains = scores - base
            for column, question in enumerate(COLUMNS):
                spread = gains[:, column].std(ddof=1) / len(gains) ** 0.5
                rows.append(
                    {
                        "panel": panel,
                        "weights": name,
                        "prompt": question,
                        "dice": round(float(scores[:, column].mean()), 2),
                        "gain": round(float(gains[:, column].mean()), 2),
                        "gain_se": round(float(spread), 2),
                        "volumes": len(gains),
                    }
                )
                print(*rows[-1].values(), flush=True)
    if args.out is not None:
        write_rows(args.out, rows)


def cached(file, panel, args):
    """Return the scores of one file on one panel, a row per volume."""
    classical = file == "geodesic"
    digest = file if classical else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    name = f"{digest}-{args.axes}-{panel}-{args.skip}-{args.cases}.npy"
    if args.cache is not None and (args.cache / name).exists():
        return np.load(args.cache / name)
    backend = Geodesic() if classical else SynthSAM(weights=file)
    numbers = range(args.skip, args.skip + args.cases)
    scores = np.array([measure(backend, SHAPES[args.axes], panel, n) for n in numbers])
    if args.cache is not None:
        args.cache.mkdir(parents=True, exist_ok=True)
        np.save(args.cache / name, scores)
    return scores


def measure(backend, shape, panel, number):
    """Return the Dice of every question about one volume."""
    volume = draw_volume(0, VALIDATION + number, shape, **PANELS[panel])
    truth, found = volume.target.numpy(), []
    for kind in ("published", "random"):
        rng = np.random.default_rng(number)
        answers = interact(backend, volume.image[None], truth, COUNTS, rng, kind)
        found += [dice(answer > 0.5, truth) for _, answer, *_ in answers]
    session = Session(volume.image, volume.target, np.random.default_rng([2, number]))
    session.propose()
    session.draw_box(slack=0)
    fine = torch.nn.functional.interpolate(session.mask[None, None], scale_factor=2)[0, 0]
    embedding = backend.encode(volume.image[None])
    for prompt in (Prompt(box=session.box), Prompt(mask=fine)):
        found.append(dice(backend.segment(embedding, prompt).numpy() > 0, truth))
    return found


if __name__ == "__main__":
    main()
