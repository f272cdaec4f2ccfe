"""``semisam info``."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

import click

from semisam.cli.help import Command

_PACKAGES = (
    *("torch", "numpy", "scipy", "scikit-image", "SimpleITK", "nibabel", "pandas", "pydantic"),
    *("click", "rich", "dask", "transformers", "distributed"),
)


@click.command(
    "info",
    cls=Command,
    short_help="Versions, devices and plugins, for a report of a fault.",
    examples=("semisam info > report.txt",),
)
def command() -> None:
    """Print what a report of a fault needs: versions, devices and the plugins of others."""
    from semisam import __version__
    from semisam.plugins import registry

    click.echo(f"semisam {__version__}")
    click.echo(f"python {platform.python_version()} ({sys.executable})")
    click.echo(f"system {platform.platform()}, {os.cpu_count()} processors")
    for name in _PACKAGES:
        try:
            click.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            click.echo(f"{name}: not installed")
    for line in _devices():
        click.echo(line)
    for kind in registry.GROUPS:
        for plugin in registry.list_plugins(kind).values():
            if not plugin.builtin:
                click.echo(f"{kind} {plugin.name} of {plugin.distribution} {plugin.version}")


def _devices() -> list[str]:
    """Return the devices that torch can use; its import may be what is broken."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [f"torch cannot be imported: {error}"]
    from semisam.networks.precision import computes_bf16

    own = torch.backends.cpu.get_cpu_capability()
    pace = "bfloat16" if computes_bf16(torch.device("cpu")) else "float32 instead of bfloat16"
    lines = [f"cpu: {torch.get_num_threads()} threads, {own}, {pace}"]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number}: {about.name}, {about.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append("mps: available")
    return lines
