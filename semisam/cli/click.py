"""``semisam click``: segment what a person clicks at."""

from __future__ import annotations

from typing import Literal

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Voxel, device_option


@click.command(
    "click",
    cls=Command,
    short_help="Segment what is clicked at in one scan.",
    examples=("semisam click scan.nii.gz --point 30,40,22 --negative 12,40,22 -o mask.nii.gz",),
)
@click.argument("scans", metavar="SCAN...", nargs=-1, required=True)
@click.option("--point", "points", type=Voxel(), multiple=True, help="Voxel in it. Repeatable.")
@click.option("--negative", type=Voxel(), multiple=True, help="Voxel outside it. Repeatable.")
@click.option("--mask", metavar="FILE", help="A mask to correct, on the grid of the scan.")
@click.option(
    "--value",
    type=int,
    help="Value of the object in the mask. [default: that of --mask or --run, 255 for a picture, "
    "else 1]",
)
@click.option("--run", metavar="RUN", help="A run with an adapted model, such as auto's first run.")
@click.option(
    "--modality",
    type=Choice(["mr", "ct"]),
    default="mr",
    show_default=True,
    help="Window of the intensities; ct: -160 to 240 HU. No effect with --run.",
)
@click.option("--series", default="", metavar="TEXT", help="Choice of a DICOM series.")
@device_option
@click.option(
    "-o",
    "--out",
    required=True,
    metavar="MASK",
    help="File of the mask (.nii.gz or .png).",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    scans: tuple[str, ...],
    points: tuple[tuple[int, ...], ...],
    negative: tuple[tuple[int, ...], ...],
    mask: str | None,
    value: int | None,
    run: str | None,
    modality: Literal["mr", "ct"],
    series: str,
    device: str,
    out: str,
    overwrite: bool,
) -> None:
    """Segment the object at --point in SCAN with SynthSAM, and write its mask.

    A voxel is i,j,k along the axes of the file, or i,j of a picture, counted from 0. Give more
    points, also negative ones, or the last mask with --mask, until the mask is right. SynthSAM saw
    no scan of a person in its training. With --run it is the model that was adapted to your masks,
    and SCAN is prepared as there: one file, or one per channel in the order of the run's channels.
    Other values of --mask stay as they are. The innermost voxel of each component of --mask that no
    click is in is a point, too; a wrong component needs a --negative click.
    """
    from pathlib import Path

    from semisam.cli.display import tell
    from semisam.core.errors import InputError
    from semisam.core.files import check_no_folder, check_parent
    from semisam.interactive.click import click as segment
    from semisam.interactive.click import object_voxels
    from semisam.training.allocator import keep_memory

    if Path(out).resolve() in [Path(scan).resolve() for scan in scans]:
        raise InputError(f"-o must be another file than the scan, got {out}. Name another.")
    check_no_folder("-o", Path(out))
    check_parent("-o", Path(out))
    if not out.endswith((".nii", ".nii.gz", ".png")):
        raise InputError(f"-o must end in .nii.gz, or in .png for a picture, got {out}. Rename it.")
    corrected = mask is not None and Path(out).resolve() == Path(mask).resolve()
    if Path(out).exists() and not (corrected or overwrite):
        raise InputError(
            f"-o must be a new file or that of --mask, got {out}, which exists. Name another, or "
            "replace it with --overwrite."
        )
    keep_memory()
    found = segment(
        scans,
        points,
        negative=negative,
        mask=mask,
        value=value,
        run=run,
        modality=modality,
        series=series,
        device=device,
    )
    before = "" if mask is None else f"{object_voxels(Path(mask), value)} voxels before, now "
    found.save(out)
    voxels = int(found.labelmap.sum())
    tell(f"{before}{voxels} voxels. Written: {out}")
