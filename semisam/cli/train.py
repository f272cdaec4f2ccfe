"""``semisam train``: one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semisam.cli.options import run_options


@click.command("train", short_help="Train one method on one labeled subset.")
@click.option("--method", required=True, metavar="NAME", help="Framework plugin.")
@click.option("--labels", type=int, required=True, help="Labeled cases.")
@click.option("--sam", default="none", show_default=True, metavar="NAME", help="Backend plugin.")
@click.option(
    "--sam-weight",
    type=click.Choice(["plain", "gated"]),
    default="plain",
    show_default=True,
    help="plain: lambda_s as the protocol says; gated: scaled by how good SAM's answers are.",
)
@click.option(
    "--sam-control",
    type=click.Choice(["none", "oracle", "truth", "shuffled"]),
    default="none",
    show_default=True,
    help="No method but a control of the branch, for attribution.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--subset", type=int, default=0, show_default=True, help="0: the first of the list.")
@click.option("--out", required=True, metavar="FOLDER", help="The run's folder.")
@run_options
def command(
    method: str,
    labels: int,
    sam: str,
    sam_weight: str,
    sam_control: str,
    seed: int,
    subset: int,
    out: str,
    **given: Any,
) -> None:
    """Train one method, evaluate it on the test cases, and keep both in a folder.

    A folder with an unfinished run is resumed, bit for bit; a finished one is left as it is.
    """
    import json

    from semisam.allocator import keep_memory
    from semisam.bench import grid
    from semisam.cli.display import console, progress_bars
    from semisam.cli.options import common_settings, suggested_settings
    from semisam.files import writable_folder
    from semisam.run import execute
    from semisam.trainer import Interrupted

    keep_memory()
    common, options = common_settings(given, [method], [sam])
    axes = grid.Axes([method], [sam], [labels], [subset], [seed], [sam_weight], [sam_control])
    settings = grid.expand(axes, common, suggested_settings(common), options)[0]
    folder = writable_folder(Path(out))
    if settings.data is None:
        console.print("No --data given: the scans are [bold]generated phantoms[/bold].")
    with progress_bars() as bars:
        tasks = {}

        def show(phase: str, done: int, total: int, figures: Any) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, loss=figures.get("loss"))

        try:
            result = execute(settings, folder, show)
        except Interrupted as stop:
            bars.stop()
            click.echo(
                f"Interrupted after {stop.step} of {settings.iterations} iterations; a checkpoint "
                f"is in {folder}: run the same command again to go on from it.",
                err=True,
            )
            raise SystemExit(130) from None
    metrics = json.loads(result.read_text())["metrics"]
    console.print(
        f"Dice {100 * metrics['dice']:.2f} %, Jaccard {100 * metrics['jaccard']:.2f} %, "
        f"ASD {metrics['asd_voxel']:.2f} voxels, 95HD {metrics['hd95_voxel']:.2f} voxels "
        f"on the test cases. Written: {result}"
    )
