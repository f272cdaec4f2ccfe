"""The reader and writer of run folders; it defines their states and finds runs by name.

The record of a run is in its own folder, in files that are written atomically. Nothing is kept
elsewhere, so nothing can go out of date. This module opens no tensor, so it lists 10,000 runs in a
second or two.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from semisam.core.errors import InputError, first_few
from semisam.core.files import printable, read_json, write_json
from semisam.core.layout import (
    CHECKPOINT,
    ERROR,
    LOCK,
    LOG,
    MODEL,
    PROGRESS,
    RESULT,
    SETTINGS,
    SPLIT,
    STEP,
)
from semisam.plugins.registry import nearest
from semisam.run.lock import in_use
from semisam.run.settings import RunSettings, faults, read_settings, title_of

State = Literal["waiting", "running", "stopped", "failed", "damaged", "done"]
STATES: tuple[State, ...] = ("done", "running", "waiting", "stopped", "failed", "damaged")

PARTS = ("settings", "data", "metrics", "training", "cost", "versions")
"""The parts of a result."""
_FIGURES = {
    "metrics": ("dice", "jaccard", "asd_voxel", "hd95_voxel", "empty_predictions"),
    "cost": ("train_seconds", "peak_memory_gib"),
    "data": ("labeled", "unlabeled"),
}
"""Numbers that every result holds."""
_NEEDED = {SETTINGS: ("iterations",), RESULT: ("sam", "departures", "choices")}
"""Settings that are read without their defaults."""
_HASHED = re.compile(r"-[0-9a-f]{12}$")
_LOG_END = 65536


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run, as read from its folder.

    Attributes:
        path: of the folder.
        state: ``done``; ``running``: another process holds it; ``waiting``: it has not begun;
            ``stopped``: it resumes from its checkpoint; ``failed``: it ended with an error;
            ``damaged``: one of its files cannot be read.
        detail: progress (``train 300/6000``), the reason of a failure, or the damaged file.
        step: iterations of the saved checkpoint, or ``None``.
        settings: as plain values; empty if they cannot be read.
        result: of a run that is done.
        modified: seconds since the epoch of its newest file.
        size: bytes of all its files.
    """

    path: Path
    state: State
    detail: str
    step: int | None
    settings: Mapping[str, Any]
    result: Mapping[str, Any] | None
    modified: float
    size: int

    @property
    def name(self) -> str:
        """The folder's name, without control characters."""
        return printable(self.path.name)

    @property
    def short(self) -> str:
        """The first letters of the run's hash, or of its name if the hash is unknown."""
        return self.name[-12:-4] if _HASHED.search(self.name) else self.name[:8]

    @property
    def run(self) -> str:
        """The identity of a run that is done, or else the name of its folder."""
        return self.name if self.result is None else str(self.result["run"])

    @property
    def dice(self) -> float | None:
        """Mean Dice over the test cases in [0, 1]; ``None`` unless done, and without a test."""
        found = (self.result or {}).get("metrics", {}).get("dice")
        return None if found is None else float(found)

    @property
    def method(self) -> str:
        """As `RunSettings.title`; ``?`` if the settings cannot be read."""
        if not self.settings:
            return "?"
        given = [self.settings.get(name) for name in ("method", "sam", "sam_control")]
        return title_of(str(given[0] or "?"), str(given[1] or "none"), given[2])

    def whole(self, name: str) -> int | None:
        """Return a setting that is a whole number, or ``None`` if it cannot be read."""
        value = self.settings.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def resolved(self) -> RunSettings:
        """Return the settings as an object.

        Raises:
            InputError: they are not the settings of a run.
        """
        try:
            return RunSettings.model_validate_json(json.dumps(self.settings))
        except ValidationError as error:
            raise InputError(
                f"the settings of {self.path} must be of this version, got {faults(error)}. "
                "Run it again."
            ) from None

    def summary(self) -> dict[str, Any]:
        """Return the entry of the run in a list of runs, as plain values."""
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "step": self.step,
            "method": self.method,
            **{name: self.whole(name) for name in ("labels", "subset", "seed")},
            "dice": self.dice,
            "modified": self.modified,
            "size": self.size,
        }

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the parts of the run that can be read, with ``losses`` of the last iteration."""
        result = self.result or {}
        parts = {"settings": dict(self.settings), "metrics": result.get("metrics", {})}
        parts["losses"] = _last_line(self.path / LOG)
        return parts | {part: result.get(part, {}) for part in PARTS if part not in parts}


def claim(folder: Path, settings: RunSettings) -> None:
    """Write the settings into a run folder, or refuse a folder of other settings.

    A run that was refused before it began, for example for its data, leaves the folder free.

    Raises:
        InputError: the folder belongs to a run with other settings.
    """
    path, marks = folder / SETTINGS, (SPLIT, LOG, CHECKPOINT, MODEL, RESULT)
    begun = any((folder / name).exists() for name in marks)
    if path.exists():
        ours, theirs = settings.identifying(), read_settings(folder).identifying()
        other = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        if other and begun:
            raise InputError(
                f"the output folder must be empty or of the same run, got {folder}, a run with "
                f"{_differences(ours, theirs, other)}. Name another folder."
            )
    elif begun:
        raise InputError(
            f"the output folder must be empty or of the same run, got {folder}, a run without "
            f"{SETTINGS}. Restore the file, or name another folder."
        )
    if not begun:
        write_json(path, settings.model_dump(mode="json"))


def claim_data(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the cases and data of a run, or refuse a folder that began with others.

    Args:
        folder: of the run, which this process holds.
        about: ``data``, the hash of the scans, and the cases by part.

    Raises:
        InputError: the run began with other data.
    """
    before = read_json(folder / SPLIT)
    if before is not None and any(before[part] != about.get(part) for part in before):
        raise InputError(
            f"the scans must be those that the run began with, got others for {folder}. Name "
            "another folder, or restore the scans."
        )
    write_json(folder / SPLIT, dict(about))


def runs_of(folder: Path) -> Path:
    """Return the parent of a folder's run folders: its folder ``runs``, or the folder itself.

    Raises:
        InputError: the path is not a folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"the folder of runs must exist, got {folder}. Name the --out of `semisam bench`."
        )
    inner = folder / "runs"
    return inner if inner.is_dir() else folder


def list_runs(folder: Path) -> list[RunFolder]:
    """Return the runs of a folder by name; of a run folder, this one run.

    Links and folders without a run are passed over.

    Raises:
        InputError: the path is not a folder.
    """
    if (folder / SETTINGS).is_file() or (folder / RESULT).is_file():
        return [read_run(folder)]
    return sorted(_each(runs_of(folder)), key=lambda run: run.name)


def read_run(path: Path) -> RunFolder:
    """Read one run folder in any state."""
    return _read(str(path), *_measure(str(path)))


def find_run(text: str) -> Path:
    """Return the folder of the one run that a text names.

    Args:
        text: the path of a run folder; ``FOLDER#HASH``, the start of a run's hash or name in a
            folder of runs; or the start of a path, ``FOLDER/NAME``. The folder of a bench that
            holds a single run names that run.

    Raises:
        InputError: no run matches, or several do.
    """
    path = Path(text)
    if (path / SETTINGS).is_file() or (path / RESULT).is_file():
        return path
    if path.is_file():
        raise InputError(
            f"the run must be a run folder, got the file {path}. Name the folder of the run that "
            "it comes from."
        )
    parent, mark, start = text.rpartition("#")
    if path.is_dir():
        folder, start = path, ""
    elif mark and Path(start).name == start:
        folder = Path(parent)
    else:
        folder, start = path.parent, path.name
    if not folder.is_dir():
        raise InputError(
            f"the run must be the path of a run folder, or FOLDER#HASH, got {text} (no such "
            "folder). Check the path."
        )
    with os.scandir(runs_of(folder)) as entries:
        names = sorted(entry.name for entry in entries if _is_run(entry))
    found = [start] if start in names else [n for n in names if start in _starts(n, len(start))]
    if len(found) == 1:
        return runs_of(folder) / found[0]
    if not found:
        raise InputError(
            f"the run must be one of {folder}, got {start or text!r}{nearest(start, names)}. "
            f"`semisam runs list {folder}` names them."
        )
    some = first_few(found, 5)
    raise InputError(
        f"the run {start or text!r} must be one, got {len(found)} that match ({some}). Use a "
        "longer start of the name or hash."
    )


def leading_runs(texts: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Divide arguments into the runs that they begin with and the rest.

    The first names a run, as of `find_run`. A further one does if it is the path of a run folder,
    or ``FOLDER#HASH`` and no path.

    Raises:
        InputError: no run matches a name, or several do.
    """
    count = 1
    while count < len(texts) and _names_run(texts[count]):
        count += 1
    return [find_run(text) for text in texts[:count]], list(texts[count:])


def _names_run(text: str) -> bool:
    path = Path(text)
    return (path / SETTINGS).is_file() or ("#" in text and not path.exists())


def read_result(path: Path) -> dict[str, Any]:
    """Read a ``result.json``.

    Raises:
        InputError: the file is damaged or not a result.
    """
    try:
        result = _load(path)
    except (OSError, ValueError, RecursionError) as error:
        raise _no_result(path, str(error)) from None
    _check_result(path, result)
    return dict(result)


def _each(root: Path) -> Iterator[RunFolder]:
    with os.scandir(root) as entries:
        for entry in entries:
            if not _is_run(entry):
                continue
            try:
                found = _measure(entry.path)
            except OSError:  # it was removed meanwhile, or may not be read
                continue
            if RESULT in found[0] or SETTINGS in found[0]:
                yield _read(entry.path, *found)


def _is_run(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def _measure(path: str) -> tuple[set[str], float, int]:
    """Return the names in a folder, its newest file's time and all its files' bytes."""
    names: set[str] = set()
    modified, size = 0.0, 0
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    _, newest, inside = _measure(entry.path)
                    modified, size = max(modified, newest), size + inside
                    names.add(entry.name)
                    continue
                stat = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a temporary file, renamed meanwhile
                continue
            names.add(entry.name)
            size += stat.st_size
            if entry.name != LOCK and stat.st_mtime > modified:
                modified = stat.st_mtime
    return names, modified, size


def _read(path: str, names: set[str], modified: float, size: int) -> RunFolder:
    folder = Path(path)
    name = RESULT if RESULT in names else SETTINGS
    result: dict[str, Any] | None = None
    settings: Mapping[str, Any] = {}
    detail, step = "", None
    state: State = "done"
    try:
        if name == RESULT:
            result = read_result(folder / RESULT)
            settings = result["settings"]
        else:
            settings = _load(folder / SETTINGS)
            _check_settings(folder / SETTINGS, settings)
            state, detail, step = _unfinished(folder, names, settings)
    except InputError as error:
        state, detail, settings, result = "damaged", str(error), {}, None
    except (OSError, ValueError, RecursionError) as error:
        state, detail = "damaged", str(_no_result(folder / name, str(error)))
        settings, result = {}, None
    return RunFolder(folder, state, detail, step, settings, result, modified, size)


def _unfinished(
    folder: Path, names: set[str], settings: Mapping[str, Any]
) -> tuple[State, str, int | None]:
    total = settings["iterations"]
    saved = (read_json(folder / STEP) or {}).get("step") if STEP in names else None
    step = saved if isinstance(saved, int) else None
    if LOCK in names and in_use(folder):
        progress = read_json(folder / PROGRESS) or {}
        phase = printable(str(progress.get("phase") or ""))
        how_far = f"{phase} {progress.get('done')}/{progress.get('total')}" if phase else "starting"
        return "running", how_far, step
    error = read_json(folder / ERROR) if ERROR in names else None
    if error is not None:
        return "failed", printable(str(error.get("error", ""))), step
    if step is None and LOG not in names:
        return "waiting", f"0/{total}", None
    return "stopped", f"{step or 0}/{total}", step


def _check_result(path: Path, result: Any) -> None:
    if not isinstance(result, dict):
        raise _no_result(path, f"a {type(result).__name__}")
    for part in PARTS:
        if not isinstance(result.get(part), dict):
            raise _no_result(path, f"nothing under {part!r}")
    for name, found in (("run", result.get("run")), ("hash", result["data"].get("hash", ""))):
        if not isinstance(found, str):
            raise _no_result(path, f"no text under {name!r}")
    _check_settings(path, result["settings"])
    untested = result["data"].get("test") == 0 and not result["metrics"]
    for part, names in _FIGURES.items():
        if part == "metrics" and untested:
            continue
        figures = dict.fromkeys(names) | ({} if part == "data" else result[part])
        figures |= {name: result[part][name] for name in names if name in result[part]}
        for name, value in figures.items():
            if not _is_number(value):
                raise _no_result(path, f"{value!r:.40} as {name} under {part!r}")


def _check_settings(path: Path, settings: Any) -> None:
    try:
        RunSettings.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise _no_result(path, f"{faults(error):.200}") from None
    lacking = [name for name in _NEEDED.get(path.name, ()) if name not in settings]
    if lacking:
        raise _no_result(path, f"settings without {lacking[0]}")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _load(path: Path) -> Any:
    """Return the JSON of a file, whose texts hold no control characters for a terminal."""
    raw = path.read_bytes()
    value = json.loads(raw)
    return value if raw.isascii() and b"\\" not in raw else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _plain(item) for key, item in value.items()}
    return value


def _no_result(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: the file must be as semisam wrote it, got {found}. Delete that file and give the "
        "same command again to run it once more."
    )


def _starts(name: str, letters: int) -> tuple[str, ...]:
    """Return the first letters of a run's name, and of its hash where it has one."""
    hashed = _HASHED.search(name)
    return (name[:letters], *([name[-12:][:letters]] if hashed else []))


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: list[str]) -> str:
    """Return the first differences of two runs' settings, with the folder's values."""
    found = []
    for name in names:
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            keys = sorted(k for k in one | other if one.get(k) != other.get(k))
            found += [f"{name} {key} {other.get(key, 'unset')}" for key in keys]
        else:
            found.append(f"{name} {other}")
    return first_few(found, 4)


def _last_line(path: Path) -> dict[str, Any]:
    """Read the end of a log and return its last complete line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_END))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            figures = _plain(json.loads(line))
        except (ValueError, RecursionError):  # cut off or damaged
            continue
        return figures if isinstance(figures, dict) else {}
    return {}
