"""``semisam export``: a trained model as a file of its own."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export", short_help="Write a trained model as one file, with a card.")
@click.argument("run", metavar="RUN")
@click.argument("target", metavar="MODEL.pt2")
def command(run: str, target: str) -> None:
    """Export RUN as MODEL.pt2, which torch.export.load runs without semisam, and MODEL.pt2.json.

    The card tells what must be known to use the model: patch and stride of the window, spacing,
    orientation and intensities of the images, classes and versions. `semisam predict MODEL.pt2`
    reads both. The program maps float32 windows (batch, channels, *patch) to probabilities.

    torch.export.load runs what a file says: open with it only models that you trust.
    """
    from semisam.cli.display import console
    from semisam.inference.export import export_run

    card = export_run(Path(run), Path(target))
    size = Path(target).stat().st_size / 1e6
    console.print(f"Written: {target} ({size:.1f} MB) and its card {card}", soft_wrap=True)
