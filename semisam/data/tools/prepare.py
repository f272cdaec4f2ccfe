"""Prepare a dataset: write preprocessed, uncompressed copies, from which patches are read fast.

Every file is written atomically, and the manifest last. Without a manifest the dataset is not
prepared, and the next attempt resumes after the cases that are done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from semisam.core.errors import InputError
from semisam.core.files import replace_file, writable_folder, write_json
from semisam.core.threads import in_order
from semisam.data.datasets.dataset import Dataset
from semisam.data.datasets.labels import meaning_of
from semisam.data.datasets.prepared import FORMAT, MANIFEST, UNFINISHED, VOLUMES
from semisam.data.images.files import parts_of
from semisam.data.images.preprocessing import geometry_to_json
from semisam.data.loading.store import array_hash, check_image, check_label, read_named

_LOCK = ".lock"


def prepare(
    dataset: Dataset,
    options: Mapping[str, Any],
    folder: Path,
    on_case: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a dataset's prepared copy, or its missing part, and return its manifest.

    Args:
        dataset: the source, of which all images and labels are read.
        options: the options of the source.
        folder: the target, which is new, empty, or an unfinished copy of the same dataset.
        on_case: called with (cases done, number of cases) after each case.

    Raises:
        InputError: the folder holds something else or is in use, or a volume is unfit for training.
    """
    _refuse_foreign(dataset, options, folder)
    writable_folder(folder / VOLUMES)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return _prepare(dataset, options, folder, on_case)
    except Timeout:
        raise InputError(
            f"the folder must not be in use, got {folder}, which another process prepares. Wait "
            "for it or choose another folder."
        ) from None


def _prepare(
    dataset: Dataset,
    options: Mapping[str, Any],
    folder: Path,
    on_case: Callable[[int, int], None] | None,
) -> Path:
    identity = _identity(dataset, options)
    write_json(folder / UNFINISHED, identity)
    (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier preparation
    split = dataset.split()
    cases = split.cases
    for leftover in (folder / VOLUMES).glob(".*.tmp"):  # of a killed process
        leftover.unlink()
    made = in_order(cases, lambda case: _case(dataset, identity, folder, case), on_case)
    records = dict(zip(cases, made, strict=True))
    manifest = folder / MANIFEST
    write_json(
        manifest,
        {
            **identity,
            "note": dataset.note,
            "class_names": list(dataset.class_names),
            "label_values": _plain(dataset.label_values),
            "partial_labels": dataset.partial_labels,
            "empty_labels": dataset.empty_labels,
            "counts_patients": dataset.counts_patients,
            "reversed_axes": dataset.reversed_axes,
            "channels": dataset.channels,
            "channel_names": list(dataset.channel_names),
            "suggested": _plain(dict(dataset.suggested)),
            "split": _plain(asdict(split)),
            "groups": dict(dataset.groups),
            "cases": records,
        },
    )
    _remove_others(folder / VOLUMES, records)
    (folder / UNFINISHED).unlink()
    return manifest


def _case(dataset: Dataset, identity: Mapping[str, Any], folder: Path, case: str) -> Any:
    """Write one case's files, unless they exist and are up to date."""
    key = _key(case)
    record_path = folder / VOLUMES / f"{key}.json"
    stamp = _stamp(dataset, identity, case)
    try:
        known = json.loads(record_path.read_text())
        if known["stamp"] == stamp and all(_is_whole(folder, f) for f in _files(known["record"])):
            return known["record"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not done yet, or done by another version
    source = dataset.source(case)
    image = read_named(source, lambda: dataset.image(case))
    check_image(image.array, dataset.channels, source)
    record: dict[str, Any] = {
        "image": _save(folder, f"{VOLUMES}/{key}.image.npy", image.array),
        "label": None,
        "drawn": None,
        "geometry": _plain(geometry_to_json(image.geometry)),
        "has_geometry": image.has_geometry,
        "placement": None if image.placement is None else _plain(image.placement.to_json()),
    }
    if read_named(source, lambda: dataset.has_label(case)):
        label = read_named(source, lambda: dataset.label(case))
        check_label(label, image.array.shape[1:], dataset, source)
        record["label"] = _save(folder, f"{VOLUMES}/{key}.label.npy", label)
        if image.placement is not None:
            drawn = read_named(source, lambda: dataset.drawn_label(case))
            check_label(drawn, image.placement.shape, dataset, source)
            record["drawn"] = _save(folder, f"{VOLUMES}/{key}.drawn.npy", drawn)
    write_json(record_path, {"stamp": stamp, "record": record})
    return record


def _save(folder: Path, name: str, array: NDArray[Any]) -> dict[str, Any]:
    """Write an array atomically in C order and return its entry of the manifest."""
    array = np.ascontiguousarray(array)
    with replace_file(folder / name) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    size = (folder / name).stat().st_size
    return {"file": name, "sha256": array_hash(array), "bytes": size, "shape": list(array.shape)}


def _files(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [record[part] for part in ("image", "label", "drawn") if record[part] is not None]


def _is_whole(folder: Path, entry: Mapping[str, Any]) -> bool:
    path = folder / str(entry["file"])
    return path.is_file() and path.stat().st_size == int(entry["bytes"])


def _identity(dataset: Dataset, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that must be equal to resume a preparation."""
    recipe = None if dataset.recipe is None else _plain(asdict(dataset.recipe))
    return {
        "format": FORMAT,
        "dataset": dataset.name,
        "options": _plain(dict(options)),
        "recipe": recipe,
    }


def _stamp(dataset: Dataset, identity: Mapping[str, Any], case: str) -> str:
    """Return a hash of the case's files and of the options that read them."""
    files: list[Any] = []
    for path in dataset.files(case):
        for file in parts_of([path]):
            state = file.stat()
            files.append([str(file.relative_to(path.parent)), state.st_size, state.st_mtime_ns])
    text = json.dumps([identity, case, meaning_of(dataset), files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _key(case: str) -> str:
    """Return a unique file name for a case that is valid on any file system."""
    readable = re.sub(r"[^A-Za-z0-9-]+", "_", case)[:60]
    return f"{readable}-{hashlib.sha256(case.encode()).hexdigest()[:10]}"


def _refuse_foreign(dataset: Dataset, options: Mapping[str, Any], folder: Path) -> None:
    """Raise an `InputError` unless the folder is new, empty or of this preparation."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"the target must be a folder, got the file {folder}. Choose another.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    for name in (UNFINISHED, MANIFEST):
        try:
            known = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        ours = _identity(dataset, options)
        # The recipe may depend on the scans, so added cases may change it.
        other = [key for key in ("format", "dataset", "options") if known.get(key) != ours[key]]
        if not other:
            return
        raise InputError(
            f"the folder must be new or prepared from the same dataset and options, got {folder} "
            f"which differs in {', '.join(other)}. Choose another folder."
        )
    raise InputError(
        f"the folder must be new, empty or a prepared one, got {folder} with other files in it. "
        "Choose another folder."
    )


def _remove_others(volumes: Path, records: Mapping[str, Any]) -> None:
    """Remove the files of cases that are no longer in the source."""
    keep = {Path(entry["file"]).name for r in records.values() for entry in _files(r)}
    keep |= {f"{_key(case)}.json" for case in records}
    for path in volumes.iterdir():
        if path.name not in keep:
            path.unlink()


def _plain(value: Any) -> Any:
    """Return a value after a round trip through JSON, to compare it with one read from JSON."""
    return json.loads(json.dumps(value))
