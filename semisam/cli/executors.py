"""The options that say where the runs of a grid are executed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from semisam.bench.executors.contract import Executor

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["local", "dask", "slurm"]),
        default="local",
        show_default=True,
        help="Where runs are executed: processes here, Dask workers, or jobs by sbatch.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        help="Runs at a time here, or jobs in SLURM's queue. [default: one a device; all]",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, tcp://..."),
    click.option(
        "--cluster",
        type=click.Choice(["slurm", "pbs", "sge"]),
        help="Make a Dask cluster of jobs, as your configuration of dask-jobqueue says.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Workers of that cluster. [1]"),
    click.option(
        "--slurm",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of sbatch, e.g. partition=gpu, gpus=1, time=4:00:00. Repeatable.",
    ),
)


def executor_options(function: F) -> F:
    """Give a command the options that choose an executor."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_executor(given: dict[str, Any]) -> Executor:
    """Take the executor's options out of a command's, and return the executor they ask for.

    ``--device`` stays among them; of several devices, the first.

    Raises:
        InputError: if options do not go together, or the executor cannot work here.
    """
    name = given.pop("executor")
    own = {key: given.pop(key) for key in ("jobs", "scheduler", "cluster", "workers", "slurm")}
    _refuse_idle(name, own)
    devices = [part.strip() for part in (given.get("device") or "").split(",") if part.strip()]
    if name == "local":
        from semisam.bench.executors.local import Local

        given["device"] = devices[0] if devices else None
        several = devices if len(devices) > 1 else []
        _check_devices(several)
        return Local(own["jobs"] or max(1, len(devices)), several)
    device = _one_device(name, devices)
    # Where a run will be executed is not known here: its settings keep a device that is anywhere.
    given["device"] = "cpu"
    if name == "slurm":
        from semisam.bench.executors.slurm import Slurm

        return Slurm(slurm_options(own["slurm"]), own["jobs"], device)
    _need_dask()
    from semisam.bench.executors.dask import Dask

    return Dask(own["scheduler"], own["cluster"], own["workers"] or 1, device)


def slurm_options(given: tuple[str, ...]) -> dict[str, str]:
    """Return the options of ``--slurm`` by name; ``KEY`` alone is a flag.

    Raises:
        InputError: if one has an empty value.
    """
    from semisam.core.errors import InputError

    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if equals and not value:
            raise InputError(f"--slurm must be of the form KEY=VALUE, got {text!r}")
        found[key] = value
    return found


def _refuse_idle(name: str, own: dict[str, Any]) -> None:
    """Refuse options of another executor than the one asked for."""
    from semisam.core.errors import InputError

    takes = {
        "local": {"jobs"},
        "slurm": {"jobs", "slurm"},
        "dask": {"scheduler", "cluster", "workers"},
    }
    for option, value in own.items():
        if value and option not in takes[name]:
            right = " or ".join(other for other, names in takes.items() if option in names)
            raise InputError(
                f"--{option} must go with --executor {right}, got --executor {name}: "
                f"leave one of them out"
            )
    if name == "dask" and bool(own["scheduler"]) == bool(own["cluster"]):
        came = "both" if own["scheduler"] else "none"
        raise InputError(
            f"--executor dask needs one of --scheduler ADDRESS and --cluster NAME, got {came}"
        )
    if own["workers"] and not own["cluster"]:
        raise InputError(
            "--workers must go with --cluster, got --scheduler, whose workers are there already: "
            "leave --workers out"
        )


def _check_devices(devices: list[str]) -> None:
    """Refuse a device that is not there before a run finds it missing."""
    from semisam.core.errors import InputError
    from semisam.run.preflight import device_fault

    for device in devices:
        fault = device_fault(device)
        if fault is not None:
            raise InputError(
                f"--device must name devices that torch can use here, got {device} ({fault}): use "
                "cpu, or leave it out"
            )


def _one_device(name: str, devices: list[str]) -> str:
    from semisam.core.errors import InputError

    if len(devices) > 1:
        raise InputError(
            f"--executor {name} gives every run a machine's one device, got {', '.join(devices)}: "
            "name one, such as cuda, or leave --device out"
        )
    return devices[0] if devices else "auto"


def _need_dask() -> None:
    from semisam.core.errors import InputError

    missing = [n for n in ("distributed", "dask_jobqueue") if importlib.util.find_spec(n) is None]
    if missing:
        raise InputError(
            f"--executor dask needs Dask, got an installation without {' and '.join(missing)}: "
            "pip install 'semisam[dask]'"
        )
