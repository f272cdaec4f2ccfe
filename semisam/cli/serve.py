"""``semisam serve``: SynthSAM for viewers that speak nnInteractive's protocol."""

from __future__ import annotations

from typing import Literal

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import device_option


@click.command(
    "serve",
    cls=Command,
    short_help="Serve SynthSAM to viewers with nnInteractive's client.",
    examples=("semisam serve --run masks/runs/*-first",),
)
@click.option("--run", metavar="RUN", help="A run with an adapted model, such as auto's first run.")
@click.option("--modality", type=Choice(["mr", "ct"]), default="mr", show_default=True)
@click.option(
    "--axes",
    type=Choice(["zyx", "xyz"]),
    default="zyx",
    show_default=True,
    help="Order of the axes of the viewer's arrays; zyx is that of SimpleITK's arrays. It decides "
    "which axis the spacing of the run's scans is for.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=1527, show_default=True)
@click.option(
    "--key",
    envvar="NN_INTERACTIVE_API_KEY",
    help="Key of each call. [default: a new one, which is printed]",
)
@click.option(
    "--most-mib",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="Most memory of the scans that are open, in MiB.",
)
@device_option
def command(
    run: str | None,
    modality: Literal["mr", "ct"],
    axes: Literal["xyz", "zyx"],
    port: int,
    key: str | None,
    most_mib: int,
    device: str,
) -> None:
    """Answer viewers that have nnInteractive's client on this machine; napari's was tested.

    Enter the printed address and key in the viewer. Points, scribbles, boxes, lassos and initial
    masks are served; a lasso or a flat box stands for points in it. The server listens on
    127.0.0.1 only. It needs `pip install 'semisam[serve]'`.
    """
    import importlib.util
    import secrets

    from semisam.cli.display import console, tell
    from semisam.core.errors import InputError
    from semisam.interactive.click import ClickableScan
    from semisam.interactive.serve import Service, make_server
    from semisam.run.preflight import check_device
    from semisam.training.allocator import keep_memory

    if importlib.util.find_spec("nnInteractive") is None:
        raise InputError(
            "serve must have the package nninteractive-client, got none. Install semisam[serve]."
        )
    keep_memory()
    place = str(check_device(device))
    service = Service(
        lambda image, spacing: ClickableScan(
            image, run=run, modality=modality, spacing=spacing, axes=axes, device=place
        ),
        most_mib << 20,
    )
    secret = key or secrets.token_urlsafe(24)
    with make_server(service, secret, port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        tell(f"{address}  key: {secret}")
        console.print("Ctrl-C ends it.")
        server.serve_forever()
