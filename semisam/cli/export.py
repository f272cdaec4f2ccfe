"""``semisam export``: a trained model as one file."""

from __future__ import annotations

from pathlib import Path

import click

from semisam.cli.help import Command


@click.command(
    "export",
    cls=Command,
    short_help="Write a trained model as one file, with a card.",
    examples=("semisam export runs/one model.pt2",),
)
@click.argument("run", metavar="RUN")
@click.argument("target", metavar="MODEL.pt2")
def command(run: str, target: str) -> None:
    """Export RUN as MODEL.pt2, which torch.export.load runs without semisam, and MODEL.pt2.json.

    The program maps float32 windows (batch, channels, *patch) to probabilities. The card holds
    patch and stride of the window, spacing, orientation and intensities of the images, classes and
    versions.

    The file is for other programs: `semisam predict` reads run folders. torch.export.load can run
    any code that a file names, so open only models that you trust.
    """
    from semisam.cli.display import tell
    from semisam.run.folder import find_run
    from semisam.run.model import export_run

    card = export_run(find_run(run), Path(target))
    size = Path(target).stat().st_size / 1e6
    tell(f"Written: {target} ({size:.1f} MB) and its card {card}")
