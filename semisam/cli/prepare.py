"""``semisam data prepare``: a copy of a dataset for fast training."""

from __future__ import annotations

from pathlib import Path

import click

from semisam.cli.help import Command
from semisam.cli.options import dataset_options


@click.command(
    "prepare",
    cls=Command,
    short_help="Write the fast form of a folder of scans.",
    examples=("semisam data prepare scans fast --set folder.spacing=1,1,1",),
)
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@dataset_options
def command(source: str, target: str, dataset: str | None, assignments: tuple[str, ...]) -> None:
    """Resample every scan of SRC to its training grid and write it uncompressed to DST.

    Give DST as --data; training from it ends in the same weights. After a stop, the same command
    resumes, and it renews scans that have changed.
    """
    from semisam.cli.display import Bars, tell
    from semisam.cli.options import named_dataset
    from semisam.core.errors import InputError
    from semisam.data.tools.prepare import prepare
    from semisam.run.build import open_plugin

    name, options = named_dataset(Path(source), dataset, assignments)
    if name == "prepared":
        raise InputError(f"SRC must not be a prepared dataset, got {source}. Name the scans.")
    if Path(target).resolve() == Path(source).resolve():
        raise InputError(f"DST must be another folder than SRC, got {target} for both.")
    opened = open_plugin(name, Path(source), options)
    with Bars() as bars:
        task = bars.add_task("preparing", total=None)
        manifest = prepare(
            opened,
            options,
            Path(target),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    cases = opened.split().cases
    labeled = sum(opened.has_label(case) for case in cases)
    tell(f"{len(cases)} cases of {name}, {labeled} labeled, are in {target}. Written: {manifest}")
