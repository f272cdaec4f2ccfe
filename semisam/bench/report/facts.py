"""What a reader needs to reproduce the runs: settings, seeds, versions, hashes and the command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semisam.bench.report.runs import Bench, Part, RunFolder
from semisam.run.protocols import PROTOCOLS
from semisam.run.settings import RunSettings, prescribed_prompter, show_value

_AXES = ("method", "method_options", "labels", "subset", "seed", "sam", "sam_options")
_OF_THE_BRANCH = ("semisam_options", "sam_control", "prompter", "prompter_options")
_OPTIONS = {
    "network": "--network",
    "protocol": "--protocol",
    "iterations": "--iterations",
    "patch": "--patch",
    "batch": "--batch",
    "labeled_rows": "--labeled-rows",
    "lr": "--lr",
    "lr_step": "--lr-step",
    "clip": "--clip",
    "precision": "--precision",
    "stride": "--stride",
}
_ALWAYS = {"iterations", "patch"}
_OF_THE_PLACE = ("device", "checkpoint_every", "save_predictions")


def commands(bench: Bench) -> list[str]:
    """Return commands that run the grids of the finished runs again, one for each set of settings.

    A command runs the whole product of its methods, labels, SAMs, seeds and subsets, which may be
    more than the folder holds.
    """
    grids: dict[str, list[RunSettings]] = {}
    not_shared = {*_AXES, *_OF_THE_BRANCH, *_OF_THE_PLACE}
    for run in _finished(bench):
        settings = run.settings
        assert settings is not None
        shared = json.dumps(settings.model_dump(mode="json", exclude=not_shared), sort_keys=True)
        # One command gives a plugin one set of options: runs with another need their own.
        number = 0
        while any(_conflict(settings, other) for other in grids.get(f"{shared}{number}", [])):
            number += 1
        grids.setdefault(f"{shared}{number}", []).append(settings)
    return [_command(group) for group in grids.values()]


def _conflict(one: RunSettings, other: RunSettings) -> bool:
    """Return whether no command can hold both runs."""
    if one.method == other.method and one.method_options != other.method_options:
        return True
    if "none" in (one.sam, other.sam):
        return False
    same = one.sam != other.sam or one.sam_options == other.sam_options
    return not same or _branch(one) != _branch(other)


def _branch(settings: RunSettings) -> tuple[Any, ...]:
    """Return what of the branch a command gives once."""
    options = {k: v for k, v in settings.semisam_options.items() if k != "gated"}
    return options, settings.prompter, settings.prompter_options


def _command(group: Sequence[RunSettings]) -> str:
    first = group[0]
    words = ["semisam", "bench"]
    if first.data is not None:
        words += ["--data", Path(first.data).name, "--dataset", first.dataset]
    with_sam = [s for s in group if s.sam != "none"]
    words += ["--method", _join(s.method for s in group)]
    words += ["--labels", _join(s.labels for s in group)]
    words += ["--sam", _join(sorted((s.sam for s in group), key=lambda sam: sam != "none"))]
    gated = ["gated" if s.semisam_options.get("gated") else "plain" for s in with_sam]
    if "gated" in gated:
        words += ["--sam-weight", _join(gated)]
    if any(s.sam_control for s in group):
        words += ["--sam-control", _join(s.sam_control or "none" for s in with_sam)]
    words += ["--seeds", _join(s.seed for s in group)]
    words += ["--subsets", _join(s.subset for s in group)]
    if with_sam and with_sam[0].prompter != prescribed_prompter(first.protocol):
        words += ["--prompter", with_sam[0].prompter]
    alone = [RunSettings(labels=1), *map(_of_the_protocol, group)]
    for name, option in _OPTIONS.items():
        value = getattr(first, name)
        changed = any(value != getattr(settings, name) for settings in alone)
        if value is not None and (name in _ALWAYS or changed):
            words += [option, show_value(value)]
    words += ["--largest-component"] if first.largest_component else []
    sets: dict[str, None] = {}
    for settings in group:
        places = [
            (settings.method, settings.method_options),
            (settings.dataset, settings.dataset_options),
            (settings.network, settings.network_options),
        ]
        if settings.sam != "none":
            branch = {k: v for k, v in settings.semisam_options.items() if k != "gated"}
            places += [(settings.sam, settings.sam_options), ("semisam", branch)]
            places.append((settings.prompter, settings.prompter_options))
        for place, options in places:
            sets |= {f"{place}.{key}={_value(value)}": None for key, value in options.items()}
    for text in sets:
        words += ["--set", text]
    return shlex.join(words)


def _of_the_protocol(settings: RunSettings) -> RunSettings:
    """Return what a run would be if nothing but protocol, method and labels were given."""
    prescribed = PROTOCOLS[settings.protocol].run_settings(settings.method)
    given = {"method": settings.method, "labels": settings.labels}
    return RunSettings.model_validate({**prescribed, **given})


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _join(values: Iterable[Any]) -> str:
    return ",".join(dict.fromkeys(map(str, values)))


def settings_tables(bench: Bench) -> tuple[list[tuple[str, str]], list[dict[str, str]]]:
    """Return the settings that all finished runs have in common, and each run with its others."""
    runs = _finished(bench)
    flat = {run.path.name: _flat(run) for run in runs}
    names = list(dict.fromkeys(name for values in flat.values() for name in values))
    common = [
        (name, next(iter(flat.values()))[name])
        for name in names
        if len({values.get(name) for values in flat.values()}) == 1
    ]
    same = {name for name, _ in common}
    others = [
        {"run": folder, **{n: values.get(n, "") for n in names if n not in same}}
        for folder, values in flat.items()
    ]
    return common, others


def _flat(run: RunFolder) -> dict[str, str]:
    assert run.settings is not None and run.result is not None
    found = {
        name: _shown(value)
        for name, value in run.settings.model_dump(mode="json").items()
        if name not in ("data", "checkpoint_every", "save_predictions")
    }
    data: Mapping[str, Any] = run.result["data"]
    for name in ("hash", "split_hash", "labeled_cases", "test", "note"):
        value = data.get(name, "")
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        # Hashes of one table are told apart by their first digits; results.csv has them whole.
        found[f"data: {name}"] = text[:16] if name.endswith("hash") else text
    for name, value in run.result.get("versions", {}).items():
        found[f"version: {name}"] = str(value)
    return found


def _shown(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}={show_value(v)}" for key, v in value.items())
    return show_value(value)


def states(bench: Bench) -> list[tuple[str, str, str]]:
    """Return the runs that are not in the tables: name, state and why."""
    return [
        (run.path.name, run.state, run.message) for run in bench.runs if run.state != "finished"
    ]


def cost(part: Part) -> list[dict[str, str]]:
    """Return what the rows cost: seconds of training, memory, SAM's share and calls a run."""
    found = []
    for row in part.rows:
        figures = row.figures
        share, calls = figures.get("sam_seconds_share"), figures.get("sam_calls")
        found.append(
            {
                "Method": row.name,
                "Labeled": str(row.labels),
                "Training [s]": f"{figures['train_seconds']:.0f}",
                "Peak memory [GiB]": f"{figures['peak_memory_gib']:.2f}",
                "SAM's share of the time [%]": _number(share, 100.0),
                "Calls of SAM": _number(calls, 1.0),
            }
        )
    return found


def _number(value: Any, scale: float) -> str:
    return "" if value is None or value != value else f"{scale * value:.0f}"


def _finished(bench: Bench) -> list[RunFolder]:
    return [run for run in bench.runs if run.state == "finished"]
