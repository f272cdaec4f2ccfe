"""``semisam train``: execute one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam.cli.help import Choice, Command, options_of
from semisam.cli.options import OVER, Name, given_settings, run_options

if TYPE_CHECKING:
    from semisam.run.settings import RunSettings
    from semisam.training.processes import Processes


_own = options_of("The run")


@click.command(
    "train",
    cls=Command,
    short_help="Train one method on one labeled subset.",
    examples=(
        "semisam train --data scans --method fixmatch --labels 2 --sam synthsam --out runs/one",
    ),
)
@_own("--method", required=True, type=Name("framework"), help="Method plugin.")
@_own("--labels", type=int, required=True, help="Labeled cases.")
@_own(
    "--sam",
    default="none",
    show_default=True,
    type=Name("backend"),
    help="Backend plugin, or several joined by a plus.",
)
@_own(
    "--sam-control",
    type=Choice(["none", "oracle", "truth", "shuffled", "moved"]),
    default="none",
    show_default=True,
    help="A control of the branch, for attribution.",
)
@_own("--seed", type=int, default=0, show_default=True, help="Seed of the run.")
@_own(
    "--subset",
    type=int,
    default=0,
    show_default=True,
    help="Labeled subset: 0 is the first of the list, k > 0 a seeded draw.",
)
@_own("--out", required=True, metavar="FOLDER", help="The run's folder.")
@run_options
def command(
    method: str,
    labels: int,
    sam: str,
    sam_control: str,
    seed: int,
    subset: int,
    out: str,
    max_time: float | None,
    **given: Any,
) -> None:
    """Train one method, evaluate it on the test cases, and keep both in a folder.

    A folder with an unfinished run is resumed. A finished one does not change. A folder of a run
    with other settings, scans or weights is refused. Defaults are those of protocol `default`.

    Several GPUs share a run by data parallel: torchrun --nproc-per-node 2 -m semisam train ...
    Each process computes the losses on its own rows, so Dice and BatchNorm are per process.
    """
    import json

    from semisam.cli.display import console, tell
    from semisam.run.build import describe_test, describe_validation, open_dataset
    from semisam.run.request import settings as resolved_settings
    from semisam.training.allocator import keep_memory
    from semisam.training.processes import joined_processes

    def resolve(processes: Processes) -> RunSettings:
        common, options = given_settings(given)
        if processes.size > 1:
            common["ranks"] = processes.size
        return resolved_settings(
            method=method,
            labels=labels,
            sam=sam,
            sam_control=sam_control,
            subset=subset,
            seed=seed,
            options=options,
            **common,
        )

    keep_memory()
    with joined_processes() as processes:
        # Rank 0 prints for all.
        console.quiet = not processes.writer
        settings = processes.agreed(lambda: resolve(processes))
        if settings.data is None:
            tell("No --data given: the scans are generated phantoms.")
        if processes.writer:
            dataset = open_dataset(settings)
            tell(describe_test(settings, dataset))
            if held := describe_validation(settings, dataset):
                tell(held)
        result = _execute(settings, Path(out), processes, max_time)
    metrics = json.loads(result.read_text())["metrics"]
    if not metrics:
        tell(f"Trained, without a test. Written: {result}")
        return
    tell(
        f"Dice {100 * metrics['dice']:.2f} %, Jaccard {100 * metrics['jaccard']:.2f} %, "
        f"ASD {metrics['asd_voxel']:.2f} voxels, 95HD {metrics['hd95_voxel']:.2f} voxels "
        f"on the test cases. Written: {result}"
    )


def _execute(
    settings: RunSettings, folder: Path, processes: Processes, max_time: float | None
) -> Path:
    """Execute the run with progress bars; exit if it is interrupted or out of time.

    Only rank 0 reports errors that all processes raise at once.
    """
    from semisam.cli.display import PhaseDisplay
    from semisam.run.execute import execute
    from semisam.training.trainer import Diverged, Interrupted, TimeOver

    try:
        with PhaseDisplay() as show:
            shown = show if processes.writer else None
            return execute(settings, folder, shown, processes, max_time)
    except Interrupted as stop:
        over = isinstance(stop, TimeOver)
        if processes.writer:
            click.echo(
                f"{'The time of --max-time is over' if over else 'Interrupted'} after "
                f"{stop.step} of {settings.iterations} iterations; a checkpoint is in "
                f"{folder}. Run the same command again to resume from it.",
                err=True,
            )
        raise SystemExit(OVER if over else 130) from None
    except Diverged:
        if processes.writer:
            raise
        raise SystemExit(1) from None
