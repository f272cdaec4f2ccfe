"""``semisam auto``: from a folder of scans and a few masks to masks of all scans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Duration, dataset_options, device_option

if TYPE_CHECKING:
    from semisam.run.settings import Components


@click.command(
    "auto",
    cls=Command,
    short_help="From scans and a few masks to masks of all scans.",
    examples=("semisam auto scans -o masks --budget 30m",),
)
@click.argument("scans", metavar="SCANS")
@click.option("-o", "--out", required=True, metavar="MASKS", help="Folder of the masks.")
@click.option(
    "--budget",
    type=Duration(),
    default="30m",
    show_default=True,
    help="Time for everything, e.g. 90s, 30m or 2h. The training gets what is left of it.",
)
@click.option("--dry-run", is_flag=True, help="End with the plan. Nothing is written.")
@click.option(
    "--audit",
    is_flag=True,
    help="Train once more without each mask, of at least three, to correct the predicted Dice.",
)
@click.option("--skip-faulty", is_flag=True, help="Leave out the cases whose files have faults.")
@click.option(
    "--components",
    type=Choice(["as-labeled", "largest", "surest", "all"]),
    default="as-labeled",
    show_default=True,
    help="Components of a class that a mask keeps. as-labeled: the largest, if the class is one "
    "component in each of your masks, else all.",
)
@device_option
@dataset_options
def command(
    scans: str,
    out: str,
    budget: float,
    dry_run: bool,
    audit: bool,
    skip_faulty: bool,
    components: Components,
    device: str,
    dataset: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Write masks of all scans in SCANS, some of which have a mask, and rank them by trust.

    The command checks the data, measures a few real steps and prints a plan. It adapts the
    promptable model to your masks and writes first masks of all scans. Then it trains on all scans,
    replaces the first masks, and writes volumes.csv, sheet.png and index.html.

    Your masks are never overwritten, also not those of MASKS that you changed. The same command
    resumes after a stop. With more masks in SCANS it trains again.
    """
    from pathlib import Path

    from semisam.automatic.flow import auto
    from semisam.cli.display import PhaseDisplay, tell
    from semisam.cli.options import named_dataset
    from semisam.training.allocator import keep_memory
    from semisam.training.trainer import Interrupted

    keep_memory()
    name, options = named_dataset(Path(scans), dataset, assignments)
    try:
        with PhaseDisplay() as display:
            page = auto(
                scans,
                out,
                budget=budget,
                dry_run=dry_run,
                audit=audit,
                skip_faulty=skip_faulty,
                components=components,
                device=device,
                dataset=name,
                options=options,
                note=tell,
                progress=display,
            )
    except (Interrupted, KeyboardInterrupt):  # outside of the training, it is the latter
        click.echo("Interrupted. Run the same command again to resume.", err=True)
        raise SystemExit(130) from None
    if not dry_run:
        tell(f"Open {page}")
