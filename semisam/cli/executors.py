"""Options that choose where the runs of a grid are executed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from semisam.cli.help import Choice, options_of

if TYPE_CHECKING:
    from semisam.bench.executors.contract import Executor

F = TypeVar("F", bound=Callable[..., Any])

_execution = options_of("Execution")

_OPTIONS = (
    _execution(
        "--executor",
        type=Choice(["local", "dask"]),
        default="local",
        show_default=True,
        help="Execute runs as processes of this machine, or on Dask workers.",
    ),
    _execution(
        "--jobs",
        type=click.IntRange(min=1),
        help="Runs at a time on this machine. [default: one per device]",
    ),
    _execution("--scheduler", metavar="ADDRESS", help="A running Dask scheduler, tcp://..."),
    _execution(
        "--cluster",
        type=Choice(["slurm", "pbs", "sge", "lsf"]),
        help="Submit jobs with Dask workers, by your dask-jobqueue configuration.",
    ),
    _execution("--workers", type=click.IntRange(min=1), help="Jobs at a time. [default: 1]"),
)


def executor_options(function: F) -> F:
    """Add the options that choose an executor to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_executor(given: dict[str, Any]) -> Executor:
    """Remove the executor's options from a command's options, and return the executor.

    ``--device`` stays. Of several devices, the first stays.

    Raises:
        InputError: if options contradict each other, or the executor cannot work here.
    """
    name = given.pop("executor")
    own = {key: given.pop(key) for key in ("jobs", "scheduler", "cluster", "workers")}
    _refuse_idle(name, own)
    devices = [part.strip() for part in (given.get("device") or "").split(",") if part.strip()]
    if name == "local":
        from semisam.bench.executors.local import Local

        given["device"] = devices[0] if devices else None
        several = devices if len(devices) > 1 else []
        _check_devices(several)
        return Local(own["jobs"] or max(1, len(devices)), several)
    device = _one_device(devices)
    # The device of a worker's machine is unknown here; every machine has a CPU.
    given["device"] = "cpu"
    _need_dask()
    from semisam.bench.executors.dask import Dask

    return Dask(own["scheduler"], own["cluster"], own["workers"] or 1, device)


def _refuse_idle(name: str, own: dict[str, Any]) -> None:
    """Refuse options of another executor than the chosen one."""
    from semisam.core.errors import InputError

    takes = {"local": {"jobs"}, "dask": {"scheduler", "cluster", "workers"}}
    for option, value in own.items():
        if value and option not in takes[name]:
            right = next(other for other, names in takes.items() if option in names)
            raise InputError(
                f"--{option} must go with --executor {right}, got --executor {name}. "
                "Leave one of them out."
            )
    if name == "dask" and bool(own["scheduler"]) == bool(own["cluster"]):
        came = "both" if own["scheduler"] else "neither"
        raise InputError(
            f"--executor dask must have either --scheduler ADDRESS or --cluster NAME, got {came}. "
            "Give one of them."
        )
    if own["workers"] and not own["cluster"]:
        raise InputError(
            "--workers must go with --cluster, got --scheduler, which has its workers already. "
            "Leave --workers out."
        )


def _check_devices(devices: list[str]) -> None:
    """Refuse a missing device before a run starts."""
    from semisam.core.errors import InputError
    from semisam.run.preflight import device_fault

    for device in devices:
        fault = device_fault(device)
        if fault is not None:
            raise InputError(
                f"--device must name devices that torch can use here, got {device} ({fault}). Use "
                "cpu, or leave it out."
            )


def _one_device(devices: list[str]) -> str:
    """Return the device of every run; with ``auto``, each worker's machine chooses."""
    from semisam.core.errors import InputError

    if len(devices) > 1:
        raise InputError(
            f"--device must name one device with --executor dask, got {', '.join(devices)}. Name "
            "one, such as cuda, or leave it out."
        )
    return devices[0] if devices else "auto"


def _need_dask() -> None:
    """Refuse an installation without Dask."""
    from semisam.core.errors import InputError

    missing = [n for n in ("distributed", "dask_jobqueue") if importlib.util.find_spec(n) is None]
    if missing:
        raise InputError(
            f"--executor dask must have Dask, got an installation without {' and '.join(missing)}. "
            "Run pip install 'semisam[dask]'."
        )
