"""Batches of full-resolution Left Atrium scans: against the published way, waiting, memory.

    python benchmarks/speed_loader.py --data FOLDER [--out benchmarks/results/speed_loader.csv]

``published``: as the published scripts load a case: the whole image and label read from the h5
file, padded where the patch is larger, cropped by numpy, turned and mirrored, copied to tensors and
collated. ``la``: our loader on the same files (a volume is kept once it was read, up to 4 GiB);
``prepared``: on the copies of ``semisam data prepare``, of which a patch's own pages are read. All
make the same kind of batch, 2 labeled and 2 unlabeled patches of 112x112x80, in one thread; the
files are in the system's cache. Processor time and wall time per batch, the median.

``wait_share`` is the share of a training on the CPU, V-Net and `mt`, patches of 112x112x80, that
waits for its batches. ``memory``: how much one process grows while it makes batches of 10,000 cases
(links to the sample's files), with the cache bounded to 512 MiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from rows import write_rows
from torch.utils.data import default_collate

from semisam.data.datasets.la import FILE_NAME, LeftAtrium
from semisam.data.datasets.prepared import MANIFEST, Prepared
from semisam.data.loading.prefetch import Prefetcher
from semisam.data.loading.sampling import BatchPlan, BatchSource
from semisam.data.loading.store import VolumeStore
from semisam.data.tools.prepare import prepare
from semisam.frameworks.mean_teacher import MeanTeacher
from semisam.networks.vnet import VNet
from semisam.training.trainer import Trainer, TrainingPlan

PATCH = (112, 112, 80)
CASES = 10_000
CACHE = 512 * 2**20


class PublishedLoader:
    """Cases as the published scripts load them, one after the other."""

    def __init__(self, folder, cases):
        self.folder, self.cases = folder, cases

    def sample(self, case):
        with h5py.File(self.folder / case / FILE_NAME, "r") as file:
            image, label = file["image"][:], file["label"][:]
        if any(have <= want for have, want in zip(label.shape, PATCH, strict=True)):
            pads = [
                (max((want - have) // 2 + 3, 0),) * 2
                for have, want in zip(label.shape, PATCH, strict=True)
            ]
            image = np.pad(image, pads, mode="constant", constant_values=0)
            label = np.pad(label, pads, mode="constant", constant_values=0)
        starts = [
            np.random.randint(0, have - want) for have, want in zip(label.shape, PATCH, strict=True)
        ]
        window = tuple(slice(a, a + n) for a, n in zip(starts, PATCH, strict=True))
        image, label = image[window], label[window]
        turns, axis = np.random.randint(0, 4), np.random.randint(0, 2)
        image = np.flip(np.rot90(image, turns), axis=axis).copy()
        label = np.flip(np.rot90(label, turns), axis=axis).copy()
        image = image.reshape(1, *image.shape).astype(np.float32)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label).long()}

    def batch(self, step):
        rows = [self.cases[(4 * step + row) % len(self.cases)] for row in range(4)]
        return default_collate([self.sample(case) for case in rows])


def source(dataset, cases, max_bytes=4 * 2**30):
    half = len(cases) // 2
    labeled, unlabeled = cases[:half], cases[half:]
    store = VolumeStore(dataset, labeled=labeled, unlabeled=unlabeled, test=(), max_bytes=max_bytes)
    return BatchSource(store, labeled, unlabeled, BatchPlan(2, 2), PATCH, seed=0)


def timed(loaders, batches):
    """Return (processor, wall) milliseconds per batch by name; the loaders take turns."""
    spent = {name: [] for name in loaders}
    for step in range(-1, batches):
        for name, loader in loaders.items():
            before = time.process_time(), time.perf_counter()
            loader.batch(max(step, 0))
            after = time.process_time(), time.perf_counter()
            if step >= 0:  # the first one of each is a warm-up
                spent[name].append([1000 * (b - a) for a, b in zip(before, after, strict=True)])
    return {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in spent.items()
    }


def wait_share(dataset, cases, steps, folder):
    """Return seconds a step and the share of them that waited for batches."""
    torch.manual_seed(0)
    framework = MeanTeacher(lambda **heads: VNet(1, heads), num_classes=2)
    plan = TrainingPlan(iterations=steps, device="cpu", checkpoint_every=10**6)
    trainer = Trainer(framework, source(dataset, cases), plan, folder, prefetch=Prefetcher)
    summary = trainer.fit()
    return summary.seconds / steps, summary.waited / summary.seconds


def resident():
    """Return the resident MiB of this process, and of them those that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    anonymous = int(values["RssAnon"]) / 1024
    return anonymous + int(values["RssFile"]) / 1024, anonymous


def many_h5(folder, cases, target):
    names = [f"case_{n:05d}" for n in range(CASES)]
    target.mkdir()
    for n, name in enumerate(names):
        (target / name).symlink_to(folder / cases[n % len(cases)])
    (target / "train.list").write_text("\n".join(names[:-1]))
    (target / "test.list").write_text(names[-1])
    return LeftAtrium(target), names


def many_prepared(folder, cases, target):
    raw = json.loads((folder / MANIFEST).read_text())
    names = [f"case_{n:05d}" for n in range(CASES)]
    raw["cases"] = {name: raw["cases"][cases[n % len(cases)]] for n, name in enumerate(names)}
    raw["split"] = {"train": names[:-1], "test": names[-1:]}
    target.mkdir()
    (target / MANIFEST).write_text(json.dumps(raw))
    (target / "volumes").symlink_to(folder / "volumes")
    return Prepared(target), names


def growth(loader, steps):
    """Return by how many MiB the process grew at most, and of that without mapped files."""
    loader.batch(0)
    whole, anonymous = resident()
    most = [0.0, 0.0]
    for step in range(1, steps):
        loader.batch(step)
        now = resident()
        most = [max(most[0], now[0] - whole), max(most[1], now[1] - anonymous)]
    return most


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []

    def add(what, value, unit):
        rows.append({"what": what, "value": f"{value:.4g}", "unit": unit})
        print(rows[-1], flush=True)

    folder = arguments.data.resolve()
    dataset = LeftAtrium(folder)
    cases = (*dataset.split().train, *dataset.split().test)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        prepare(dataset, {}, root / "fast")
        fast = Prepared(root / "fast")
        found = timed(
            {
                "published": PublishedLoader(folder, cases),
                "la": source(dataset, cases),
                "prepared": source(fast, cases),
            },
            arguments.batches,
        )
        for name, (processor, wall) in found.items():
            add(f"{name}, processor time per batch", processor, "ms")
            add(f"{name}, wall time per batch", wall, "ms")
        for name in ("la", "prepared"):
            add(f"published / {name}, processor time", found["published"][0] / found[name][0], "")
        data, names = many_prepared(root / "fast", cases, root / "many_fast")
        whole, anonymous = growth(source(data, names), 1000)
        add("memory, prepared, 10,000 cases, 4,000 read: growth", whole, "MiB")
        add(
            "memory, prepared, 10,000 cases, 4,000 read: growth without mapped files",
            anonymous,
            "MiB",
        )
        data, names = many_h5(folder, cases, root / "many_h5")
        loader = source(data, names, CACHE)
        whole, _ = growth(loader, 80)
        add("memory, la, 10,000 cases, 320 read: growth", whole, "MiB")
        add(
            "memory, la, 10,000 cases, 320 read: cache of 512 MiB",
            loader.store.cached_bytes / 2**20,
            "MiB",
        )
        (root / "run").mkdir()
        seconds, share = wait_share(fast, cases, arguments.steps, root / "run")
        add("training on the CPU, step", seconds, "s")
        add("training on the CPU, waiting for batches", 100 * share, "%")
    if arguments.out is not None:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
