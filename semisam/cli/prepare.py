"""``semisam data prepare``: a copy of a dataset that the trainer reads fast."""

from __future__ import annotations

from pathlib import Path

import click

from semisam.cli.options import dataset_options


@click.command("prepare", short_help="Write the fast form of a folder of scans.")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@dataset_options
def command(source: str, target: str, dataset: str | None, assignments: tuple[str, ...]) -> None:
    """Bring every scan of SRC onto its grid once and keep it in DST, uncompressed.

    DST is then a --data of its own, and training from it ends in the very same weights. The same
    command again goes on where it was stopped and renews what has changed.
    """
    from semisam.cli.display import console, progress_bars
    from semisam.cli.options import named_dataset
    from semisam.core.errors import InputError
    from semisam.data.tools.prepare import prepare
    from semisam.plugins import registry

    name, options = named_dataset(Path(source), dataset, assignments)
    if name == "prepared":
        raise InputError(f"SRC must be scans as they came, got {source}, which is prepared already")
    if Path(target).resolve() == Path(source).resolve():
        raise InputError(f"DST must be another folder than SRC, got {target} for both")
    opened = registry.load("dataset", name)(Path(source), **options)
    with progress_bars() as bars:
        task = bars.add_task("preparing", total=None)
        manifest = prepare(
            opened,
            options,
            Path(target),
            lambda done, total: bars.update(task, completed=done, total=total),
        )
    split = opened.split()
    cases = (*split.train, *split.test)
    labeled = sum(opened.has_label(case) for case in cases)
    console.print(
        f"{len(cases)} cases of {name}, {labeled} labeled, are in {target}. Written: {manifest}"
    )
