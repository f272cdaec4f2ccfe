"""``semisam evaluate``: score a trained method."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Size, device_option


@click.command(
    "evaluate",
    cls=Command,
    short_help="Score a trained method on the test cases.",
    examples=("semisam evaluate runs/one --components largest",),
)
@click.argument("run", metavar="RUN")
@click.option("--data", metavar="FOLDER", help="Scans. [default: the run's]")
@click.option("--patch", type=Size(), help="Window in voxels. [default: the run's]")
@click.option("--stride", type=Size(), help="Stride of the window. [default: the run's]")
@click.option(
    "--components",
    type=Choice(["all", "largest", "surest"]),
    help="Components of each class that a mask keeps. [default: the run's]",
)
@device_option
@click.option("--save-predictions", metavar="FOLDER", help="Write a NIfTI labelmap per case.")
@click.option("--out", metavar="CSV", help="Per-case scores. [default: RUN/evaluation.csv]")
def command(
    run: str,
    data: str | None,
    patch: tuple[int, ...] | None,
    stride: tuple[int, ...] | None,
    components: Literal["all", "largest", "surest"] | None,
    device: str,
    save_predictions: str | None,
    out: str | None,
) -> None:
    """Score RUN, a run or a published V-Net checkpoint (.pth), on the test cases.

    A published checkpoint needs --data and --patch. Nothing in a checkpoint is executed.
    """
    from semisam.cli.display import Bars, tell
    from semisam.core.errors import InputError
    from semisam.run.preflight import check_device
    from semisam.run.scoring import open_scored, score
    from semisam.training.allocator import keep_memory

    if out is not None and not out.lower().endswith(".csv"):
        raise InputError(f"--out must end in .csv, got {out}. Rename it.")
    keep_memory()
    on_device = check_device(device)
    scored = open_scored(
        run,
        str(on_device),
        data=data,
        patch=patch,
        stride=stride,
        components=components,
    )
    target, count = Path(out) if out else scored.target, len(scored.test)
    with Bars() as bars:
        checking = bars.add_task("checking scans", total=count)
        task = bars.add_task("evaluating", total=count)
        summary = score(
            scored,
            on_device,
            target,
            Path(save_predictions) if save_predictions else None,
            lambda done, total: bars.update(checking, completed=done),
            lambda done, total: bars.update(task, completed=done),
        )
    tell(
        f"{count} cases: Dice {100 * summary['dice']:.2f} ± "
        f"{100 * summary['dice_sd_cases']:.2f} %, Jaccard {100 * summary['jaccard']:.2f} %, "
        f"ASD {summary['asd_voxel']:.2f} voxels, 95HD {summary['hd95_voxel']:.2f} voxels "
        f"(SD over cases), {summary['empty_predictions']} empty. Written: {target}"
    )
