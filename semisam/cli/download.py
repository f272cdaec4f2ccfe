"""``semisam data download``: a public benchmark."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("download", short_help="Download a public benchmark, checked by hash.")
@click.argument("name", type=click.Choice(["la"]), metavar="la")
@click.option(
    "-o", "--out", default="data/la", show_default=True, metavar="FOLDER", help="Where it goes."
)
@click.option(
    "--jobs", type=click.IntRange(1, 32), default=4, show_default=True, help="Connections at once."
)
@click.option("--url", metavar="URL", help="A mirror that has <case>/mri_norm2.h5.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds without an answer until a connection is given up.",
)
def command(name: str, out: str, jobs: int, url: str | None, timeout: float) -> None:
    """Download the Left Atrium benchmark: 100 scans, 233 MB, at full resolution.

    Every file is held to its published SHA-256; a wrong one is never kept. The same command again
    goes on where it was stopped and keeps what is right. The folder then is a --data of dataset la.
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
        report = download_la(
            Path(out),
            entries,
            url=quote(url, safe=":/%?=&@~+,;") if url else LA_URL,
            jobs=jobs,
            timeout=timeout,
            progress=lambda files, count: bars.update(task, completed=count, files=files),
        )
    console.print(
        f"{report.fetched} files downloaded, {report.kept} were there; all {len(entries)} have "
        f"their published hash. Train on them with --data {out}"
    )
