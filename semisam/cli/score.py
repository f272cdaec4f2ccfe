"""``semisam score``: compare two folders of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from semisam.cli.help import Command
from semisam.cli.options import Numbers

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(
    "score",
    cls=Command,
    short_help="Score a folder of masks against another.",
    examples=("semisam score masks truth",),
)
@click.argument("predictions", metavar="PREDICTIONS")
@click.argument("truth", metavar="TRUTH")
@click.option(
    "--ignore", type=Numbers(), default=(), help="Values of TRUTH that nobody annotated: left out."
)
@click.option("--out", metavar="CSV", help="Scores of each case. [default: PREDICTIONS/scores.csv]")
def command(predictions: str, truth: str, ignore: tuple[int, ...], out: str | None) -> None:
    """Score the masks of PREDICTIONS against those of TRUTH, each on its own grid.

    Masks of one name belong together, and <case>_label.nii.gz belongs to <case>.nii.gz. TRUTH may
    be the folder of the scans with their labels. Each value other than 0 is a class; 255 and 1 are
    one if each side has one of them only. ASD is from prediction to truth. A class that only one
    mask of a case has gets Dice 0, and distances of the image's diagonal. For pictures a pixel
    counts as 1 mm.
    """
    from pathlib import Path

    from semisam.cli.display import Bars, console, tell
    from semisam.core.errors import first_few
    from semisam.core.files import check_no_folder, writable_folder, write_csv
    from semisam.inference.comparison import pair_masks, score_masks

    found = pair_masks(Path(predictions), Path(truth))
    target = Path(out) if out else Path(predictions) / "scores.csv"
    check_no_folder("--out", target)
    writable_folder(target.parent)
    with Bars() as bars:
        task = bars.add_task("scoring", total=len(found.pairs))
        rows = score_masks(
            found, ignore=ignore, on_case=lambda done, total: bars.update(task, completed=done)
        )
    write_csv(target, rows)
    _print(rows, console)
    if found.left_out:
        names = first_few([str(path) for path in found.left_out])
        tell(f"Left out, without a partner: {len(found.left_out)} masks ({names})")
    tell(f"Written: {target}")


def _print(rows: Sequence[dict[str, Any]], console: Any) -> None:
    import statistics

    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from semisam.metrics.scores import missed, rightly_empty

    table = Table(title="Mean ± SD over cases", box=SIMPLE_HEAD, pad_edge=False)
    heads = {
        "Dice\n\\[%]": ("dice", 100),
        "Jacc.\n\\[%]": ("jaccard", 100),
        "Surface\n1 mm": ("surface_dice_1mm", 100),
        "Dice [%]\n2 mm": ("surface_dice_2mm", 100),
        "ASD\n\\[mm]": ("asd_mm", 1),
        "95HD\n\\[mm]": ("hd95_mm", 1),
    }
    table.add_column("Class")
    for head in ("Cases", *heads, "Empty"):
        table.add_column(head, justify="right")
    for value in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == value]
        figures = []
        for name, factor in heads.values():
            numbers = [factor * row[name] for row in own]
            spread = f"\n± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
            figures.append(f"{statistics.mean(numbers):.1f}{spread}")
        empty = sum(missed(row) for row in own)
        table.add_row(str(value), str(len(own)), *figures, str(empty))
    console.print(table)
    if both := sum(rightly_empty(row) for row in rows):
        console.print(
            f"{both} of {len(rows)} scores are of a class that neither mask holds: Dice 100, which "
            "the means count."
        )
