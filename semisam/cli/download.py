"""``semisam data download``: a public benchmark."""

from __future__ import annotations

from pathlib import Path

import click

from semisam.cli.help import Choice, Command


@click.command(
    "download",
    cls=Command,
    short_help="Download a public benchmark, checked by hash.",
    examples=("semisam data download la -o data/la",),
)
@click.argument("name", type=Choice(["la"]), metavar="la")
@click.option(
    "-o", "--out", default="data/la", show_default=True, metavar="FOLDER", help="Output folder."
)
@click.option("--url", metavar="URL", help="A mirror with <case>/mri_norm2.h5.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds without data before a connection is closed.",
)
def command(name: str, out: str, url: str | None, timeout: float) -> None:
    """Download the Left Atrium benchmark: 100 scans, 233 MB, at full resolution.

    Every file is checked against its published SHA-256. After a stop, the same command keeps the
    correct files and fetches the rest. Then give the folder as --data with --dataset la.
    """
    from urllib.parse import quote

    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from semisam.cli.display import console
    from semisam.data.tools.download import LA_CITATION, LA_URL, download_la, la_manifest

    entries = la_manifest()
    columns = (
        TextColumn("{task.fields[files]}/{task.fields[all]} files"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console.print(LA_CITATION)
    with Progress(*columns, console=console, transient=True) as bars:
        total = sum(entry.size for entry in entries)
        task = bars.add_task("", total=total, files=0, all=len(entries))
        fetched = download_la(
            Path(out),
            entries,
            url=quote(url, safe=":/%?=&@~+,;") if url else LA_URL,
            timeout=timeout,
            progress=lambda files, count: bars.update(task, completed=count, files=files),
        )
    console.print(
        f"Downloaded {fetched} files; all {len(entries)} have their published hash. "
        f"Train on them with --data {out}"
    )
