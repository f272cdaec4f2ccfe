"""``semisam zero-shot``: the scores of a promptable model without any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Names, Numbers, dataset_option, device_option

if TYPE_CHECKING:
    from semisam.bench.clicks import Clicks


@click.command(
    "zero-shot",
    cls=Command,
    short_help="Score promptable models by clicks from the truth.",
    examples=("semisam zero-shot --data scans --sam synthsam,geodesic --points 1,5",),
)
@click.option("--data", metavar="FOLDER", help="Folder of scans. [default: generated phantoms]")
@dataset_option
@click.option(
    "--sam",
    "names",
    type=Names("backend"),
    default=None,
    help="Backends; a plus joins several. [default: the embedded one]",
)
@click.option(
    "--points",
    type=Numbers(),
    default="1,2,5,10",
    show_default=True,
    help="Clicks per volume; per slice for models that work slice by slice.",
)
@click.option(
    "--clicks",
    type=Choice(["published", "random"]),
    default="published",
    show_default=True,
    help="published: two clicks deep inside the error, then anywhere in it; random: anywhere.",
)
@click.option(
    "--seeds", type=Numbers(times=True), default="0", show_default=True, help="Seeds of the clicks."
)
@click.option("--cases", type=click.IntRange(min=1), help="Use only the first N test cases.")
@click.option(
    "--set",
    "given",
    multiple=True,
    metavar="PLUGIN.OPTION=VALUE",
    help="An option of a backend or of the dataset. Repeatable.",
)
@device_option
@click.option("--out", default="runs/zero-shot", show_default=True, help="Folder of the tables.")
def command(
    data: str | None,
    dataset: str | None,
    names: tuple[str, ...] | None,
    points: tuple[int, ...],
    clicks: Clicks,
    seeds: tuple[int, ...],
    cases: int | None,
    given: tuple[str, ...],
    device: str,
    out: str,
) -> None:
    """Segment the test cases with promptable models, without a method: Table I of the paper.

    The clicks are simulated from the TRUTH of the test cases, as for SAM-Med3D. The first is in the
    target, each further one where the prediction is wrong. This measures the model, not a method.
    Each model gets earlier clicks as in its training: the clicks, its last prediction, or both. The
    command writes cases.csv and table.csv.
    """
    from semisam.bench import zero_shot
    from semisam.cli.display import Bars, print_zero_shot, tell
    from semisam.cli.options import assignments
    from semisam.core.errors import InputError
    from semisam.core.layout import CASES, TABLE
    from semisam.run.preflight import check_device
    from semisam.run.settings import DEFAULT_BACKEND
    from semisam.training.allocator import keep_memory

    keep_memory()
    place = check_device(device)
    if min(points) < 1:
        raise InputError(f"--points must be at least 1, got {min(points)}.")
    where = None if data is None else Path(data)
    options = assignments(given)
    opened = zero_shot.open_zero_shot(names or (DEFAULT_BACKEND,), where, dataset, options, cases)
    folder = zero_shot.free_folder(Path(out))
    if data is None:
        tell("No --data given: the scans are generated phantoms.")
    tell(f"Prompts: {zero_shot.NOTE}.")
    with Bars() as bars:
        checking = bars.add_task("checking scans", total=len(opened.store.test))
        opened.store.check(lambda done, total: bars.update(checking, completed=done))
        task = bars.add_task("querying", total=None)
        rows = zero_shot.run(
            opened.backends,
            opened.store,
            sorted(points),
            seeds,
            lambda done, total: bars.update(task, completed=done, total=total),
            clicks,
            place,
        )
    print_zero_shot(zero_shot.write_tables(rows, opened, clicks, folder))
    tell(f"Written: {folder / TABLE}, {folder / CASES}")
