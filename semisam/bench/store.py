"""What lies in a folder of runs, told without opening a tensor: 10,000 of them in a second or two.

The truth is in each run's own folder, in files that are written beside and renamed; nothing here is
kept, so nothing can go out of date.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from semisam.bench.sharing import in_use, read_progress
from semisam.core.errors import InputError
from semisam.core.layout import CHECKPOINT, ERROR, LOCK, PREVIOUS, PROGRESS, RESULT, SETTINGS

State = Literal["done", "running", "stopped", "failed", "damaged"]

PARTS = ("settings", "options", "data", "metrics", "training", "cost", "versions")
_HASHED = re.compile(r"-[0-9a-f]{12}$")
# The key "step" of a checkpoint and the whole number behind it, as a pickle has them.
_STEP = re.compile(
    rb"X\x04\x00\x00\x00step(?:q.|r.{4}|\x94)?"
    rb"(?:K(?P<one>.)|M(?P<two>..)|J(?P<four>....))",
    re.DOTALL,
)
_CHECKPOINT_START = 4096


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One run of a folder.

    Attributes:
        name: of its folder.
        state: done; running: another process holds it; stopped: it can go on; failed: it ended
            with an error; damaged: a file of it cannot be read.
        detail: how far it is or was, ``train 300/6000``; why it failed; what is damaged.
        step: iterations in its checkpoint; ``None`` without one.
        method: framework, SemiSAM's backend with it.
        labels: labeled cases.
        subset: labeled subset.
        seed: of the run.
        dice: mean over the test cases, in [0, 1]; ``None`` unless done.
        modified: seconds since the epoch of the newest of its files.
        size: bytes of all of them.
    """

    name: str
    state: State
    detail: str
    step: int | None
    method: str
    labels: int | None
    subset: int | None
    seed: int | None
    dice: float | None
    modified: float
    size: int

    @property
    def short(self) -> str:
        """The first letters of the run's hash, or of its name where it has none."""
        return self.name[-12:-4] if _HASHED.search(self.name) else self.name[:8]


def runs_of(folder: Path) -> Path:
    """Return where the runs of a folder lie: in ``runs``, or right in it.

    Raises:
        InputError: it is no folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"a folder of runs is required, got {folder}: name the --out of `semisam bench`"
        )
    inner = folder / "runs"
    return inner if inner.is_dir() else folder


def list_runs(folder: Path) -> list[RunInfo]:
    """Return the runs of a folder by name; links and folders without a run are passed over.

    Raises:
        InputError: it is no folder.
    """
    return sorted(_each(runs_of(folder)), key=lambda run: run.name)


def find_run(folder: Path, wanted: str) -> RunInfo:
    """Return the one run whose name, or the hash at whose end, begins so.

    Raises:
        InputError: there is none, or several.
    """
    with os.scandir(runs_of(folder)) as entries:
        named = {entry.name: entry for entry in entries if _is_run(entry)}
    found = [wanted] if wanted in named else []
    if wanted and not found:
        found = sorted(name for name in named if wanted in _starts(name, len(wanted)))
    if len(found) == 1:
        return _info(named[found[0]], *_measure(named[found[0]].path))
    if not found:
        from semisam.plugins.registry import nearest

        raise InputError(
            f"the name of a run in {folder}, its hash, or the start of either is required, got "
            f"{wanted!r}{nearest(wanted, named)}: `semisam runs list {folder}` names them"
        )
    names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    raise InputError(
        f"the start of one run's name is required, got {wanted!r}, of {len(found)} runs "
        f"({names}): write more of it"
    )


def read_result(path: Path) -> dict[str, Any]:
    """Read a ``result.json``.

    Raises:
        InputError: it is damaged, or something else.
    """
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_result(path, str(error)) from None
    _check_result(path, result)
    return dict(result)


def checkpoint_step(folder: Path) -> int | None:
    """Return how many iterations the newest checkpoint of a run has, without torch.

    A checkpoint is an uncompressed archive that begins with its pickle, whose first entry is the
    step: the start of the file tells. ``None``: there is none, or it is of another form.
    """
    for name in (CHECKPOINT, PREVIOUS):
        try:
            with (folder / name).open("rb") as file:
                found = _STEP.search(file.read(_CHECKPOINT_START))
        except OSError:
            continue
        if found is not None:
            return int.from_bytes(next(filter(None, found.groups())), "little")
    return None


def _each(root: Path) -> Iterator[RunInfo]:
    with os.scandir(root) as entries:
        for entry in entries:
            if not _is_run(entry):
                continue
            try:
                found = _measure(entry.path)
            except OSError:  # it was removed meanwhile, or is not ours to look into
                continue
            if RESULT in found[0] or SETTINGS in found[0]:
                yield _info(entry, *found)


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
            except FileNotFoundError:  # written beside, it has its own name by now
                continue
            names.add(entry.name)
            size += stat.st_size
            if entry.name != LOCK and stat.st_mtime > modified:
                modified = stat.st_mtime
    return names, modified, size


def _info(entry: os.DirEntry[str], names: set[str], modified: float, size: int) -> RunInfo:
    settings: Any = {}
    dice = step = None
    data: Mapping[str, Any] = {}
    try:
        if RESULT in names:
            # No pathlib on the way of a finished run: it would be half of the time.
            result = _read_json(os.path.join(entry.path, RESULT))  # noqa: PTH118
            _check_result(Path(entry.path, RESULT), result)
            settings, data = result["settings"], result["data"]
            dice = float(result["metrics"]["dice"])
            state: State = "done"
            detail = ""
        else:
            settings = _read_json(os.path.join(entry.path, SETTINGS))  # noqa: PTH118
            state, detail, step = _unfinished(Path(entry.path), names, settings)
        method = _method(settings)
    except InputError as error:
        state, detail, method, settings = "damaged", str(error), "?", {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        name = RESULT if RESULT in names else SETTINGS
        problem = str(_no_result(Path(entry.path, name), str(error) or type(error).__name__))
        state, detail, method, settings = "damaged", problem, "?", {}
    return RunInfo(
        name=entry.name,
        state=state,
        detail=detail,
        step=step,
        method=method,
        labels=_whole(data.get("labeled", settings.get("labels"))),
        subset=_whole(settings.get("subset")),
        seed=_whole(settings.get("seed")),
        dice=dice,
        modified=modified,
        size=size,
    )


def _unfinished(
    folder: Path, names: set[str], settings: Mapping[str, Any]
) -> tuple[State, str, int | None]:
    total = settings["iterations"]
    if LOCK in names and in_use(folder):
        progress = read_progress(folder / PROGRESS)
        how_far = "starting"
        if progress is not None:
            how_far = f"{progress['phase']} {progress['done']}/{progress['total']}"
        return "running", how_far, checkpoint_step(folder)
    step = checkpoint_step(folder) if names & {CHECKPOINT, PREVIOUS} else None
    error = read_progress(folder / ERROR) if ERROR in names else None
    if error is not None:
        return "failed", str(error.get("error", "")), step
    return "stopped", f"{step or 0}/{total}", step


def _check_result(path: Path, result: Any) -> None:
    if not isinstance(result, dict):
        raise _no_result(path, f"a {type(result).__name__}")
    for part in PARTS:
        if not isinstance(result.get(part), dict):
            raise _no_result(path, f"nothing under {part!r}")
    if not isinstance(result.get("run"), str):
        raise _no_result(path, "nothing under 'run'")


def _no_result(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: the file must be as semisam wrote it, got {found}: delete that file and give the "
        "command again to run it anew"
    )


def _read_json(path: str) -> Any:
    with open(path, "rb") as file:  # noqa: PTH123
        return json.loads(file.read())


def _method(settings: Mapping[str, Any]) -> str:
    """Return ``mt + geodesic (gated)``."""
    if settings["sam"] == "none":
        return str(settings["method"])
    gated = dict(settings.get("semisam_options") or {}).get("gated")
    about = [*(["gated"] if gated else []), settings.get("sam_control") or ""]
    shown = ", ".join(filter(None, about))
    return f"{settings['method']} + {settings['sam']}" + (f" ({shown})" if shown else "")


def _starts(name: str, letters: int) -> tuple[str, ...]:
    """Return the first letters of a run's name, and of its hash where it has one."""
    hashed = _HASHED.search(name)
    return (name[:letters], *([name[-12:][:letters]] if hashed else []))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
