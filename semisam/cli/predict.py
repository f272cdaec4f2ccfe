"""``semisam predict``: segment new scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from semisam.cli.help import Command
from semisam.cli.options import device_option

if TYPE_CHECKING:
    from semisam.inference.volumes import Volume


@click.command(
    "predict",
    cls=Command,
    short_help="Segment new scans with a trained method.",
    examples=("semisam predict runs/one scans -o masks --preview",),
)
@click.argument("run", metavar="RUN...")
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("-o", "--out", required=True, metavar="FOLDER", help="Folder of the masks.")
@device_option
@click.option("--probabilities", is_flag=True, help="Write each class's probability as well.")
@click.option(
    "--preview",
    is_flag=True,
    help="Write <name>.png: three slices with the outlines; of a picture <name>.preview.png.",
)
@click.option("--skip-existing", is_flag=True, help="Keep the masks that are in the folder.")
@click.option("--overwrite", is_flag=True, help="Replace the masks that are in the folder.")
@click.option("--csv", "table", metavar="FILE", help="Write the ml of each class and scan.")
@click.option(
    "--series",
    default="",
    metavar="TEXT",
    help="Number, UID or begin of the description of the DICOM series, of folders with several.",
)
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    inputs: tuple[str, ...],
    out: str,
    device: str,
    probabilities: bool,
    preview: bool,
    skip_existing: bool,
    overwrite: bool,
    table: str | None,
    series: str,
) -> None:
    """Segment each INPUT with RUN and write <name>.nii.gz in the scan's own geometry.

    RUN is a run folder. Several run folders are an ensemble, with the mean of their probabilities.
    An input is any file that SimpleITK reads, a folder with one DICOM series, a folder of these, or
    an h5 file of the published layout. Several channels are one file with all of them, or files
    named <scan>_0000, <scan>_0001 and so on. The mask of a picture is <name>.png.

    A scan is brought to the orientation, spacing and intensities of the training scans, and its
    mask back. The mask has the values of the training labels, for example 255. Training scans
    without an orientation, such as the published h5 files, are taken as LPS: axes to the left, the
    posterior and the superior.
    """
    from semisam.cli.display import Bars, tell
    from semisam.core.errors import InputError
    from semisam.core.files import printable, writable_folder, write_csv
    from semisam.data.images.dicom import is_series
    from semisam.inference.inputs import check_outputs, describe_left_out, gather_scans, left_out
    from semisam.inference.masks import check_new, check_outside, write_masks
    from semisam.inference.predictor import class_file_names
    from semisam.run.folder import leading_runs
    from semisam.run.model import load_models
    from semisam.run.preflight import check_device
    from semisam.training.allocator import keep_memory

    keep_memory()
    on_device = str(check_device(device))
    runs, rest = leading_runs([run, *inputs])
    if not rest:
        raise InputError("the scans must be named after the run, got none. Name files or folders.")
    if skip_existing and overwrite:
        raise InputError(
            "--overwrite must come without --skip-existing, got both. Leave one of them out."
        )
    given, folder = [Path(text) for text in rest], Path(out)
    for path in given:
        lone = len(given) == 1 and (not path.is_dir() or is_series(path, below=False))
        check_outside(path, folder, lone=lone)
    if table:
        if not table.lower().endswith(".csv"):
            raise InputError(f"--csv must end in .csv, got {table}. Rename it.")
        writable_folder(Path(table).parent)
    model = load_models(runs, on_device)
    if len(runs) > 1:
        text = f"Mean of {len(runs)} runs: {', '.join(folder.name for folder in runs)}"
        tell(text)
    scans = gather_scans(given, model.card.channels)
    labels, unread = left_out(given)
    for what, paths in (("labels", labels), ("not scans", unread)):
        for line in describe_left_out(what, paths):
            tell(line)
    titles = tuple(class_file_names(model.card).values()) if probabilities else ()
    check_outputs(folder, scans, labels, preview=preview, titles=titles)
    if not (skip_existing or overwrite):
        check_new(scans, folder, preview=preview, titles=titles)
    writable_folder(folder)
    failed = kept = 0
    sizes: list[Volume] = []
    with Bars() as bars:
        task = bars.add_task("predicting", total=len(scans))
        for mask in write_masks(
            model,
            scans,
            folder,
            on_device,
            series=series,
            probabilities=probabilities,
            preview=preview,
            skip_existing=skip_existing,
        ):
            if mask.fault:
                click.echo(printable(f"Error: {mask.fault}"), err=True)
            failed += bool(mask.fault)
            kept += not mask.fault and mask.found is None
            sizes += mask.volumes
            bars.update(task, advance=1)
    if len(scans) > failed:
        also = f"; {kept} were there before" if kept else ""
        text = f"Written: {len(scans) - failed - kept} masks in {folder}{also}"
        tell(text)
        if table and sizes:
            write_csv(Path(table), [size.row() for size in sizes])
            tell(f"Written: {table}")
        if model.card.label_values is not None:
            pairs = zip(model.card.class_names, model.card.label_values, strict=True)
            shown = ", ".join(f"{value} {title}" for title, value in pairs)
            text = f"Values of the masks, as in the training labels: {shown}"
            tell(text)
    if failed:
        ctx.exit(2)
