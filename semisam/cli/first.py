"""``semisam data first``: the scans to label first."""

from __future__ import annotations

import click

from semisam.cli.help import Command
from semisam.cli.options import dataset_options, device_option


@click.command(
    "first",
    cls=Command,
    short_help="Name the scans to label first.",
    examples=(
        "semisam data first scans",
        "semisam bench --data LA_HALF --method fixmatch --labels 2,4 --first "
        '"$(semisam data first LA_HALF)"',
    ),
)
@click.argument("path", metavar="PATH")
@click.option(
    "--count", type=click.IntRange(min=1), default=8, show_default=True, help="Scans to name."
)
@device_option
@dataset_options
def command(
    path: str, count: int, device: str, dataset: str | None, assignments: tuple[str, ...]
) -> None:
    """Name scans of PATH that should be labeled first, the best first, separated by commas.

    Together, many others resemble them. No label is read, and test scans are not considered. If
    only some scans have a label, scans without one are named that resemble no labeled one.
    """
    from pathlib import Path

    from semisam.automatic.first import training_cases_to_label
    from semisam.cli.display import Bars
    from semisam.cli.options import named_dataset
    from semisam.core.errors import InputError
    from semisam.run.build import open_plugin
    from semisam.run.preflight import check_device

    place = str(check_device(device))
    name, options = named_dataset(Path(path), dataset, assignments)
    opened = open_plugin(name, Path(path), options)
    with Bars() as bars:
        task = bars.add_task("comparing scans", total=None)
        named = training_cases_to_label(
            opened,
            count,
            place,
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    if odd := [case for case in named if "," in case]:
        raise InputError(f"names in a list must have no comma, got {odd[0]}. Rename the file.")
    click.echo(",".join(named))
