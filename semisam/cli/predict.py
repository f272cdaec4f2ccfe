"""``semisam predict``: segment new scans."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("predict", short_help="Segment new scans with a trained method.")
@click.argument("run", metavar="RUN")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--out", required=True, metavar="FOLDER", help="Folder of the masks.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--probabilities", is_flag=True, help="Write each class's probability as well.")
@click.option(
    "--preview",
    is_flag=True,
    help="Write <name>.png: three slices with the outlines; of a picture <name>.preview.png.",
)
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
    series: str,
) -> None:
    """Segment each INPUT with RUN and write <name>.nii.gz in the scan's own geometry.

    RUN is a run folder. An input is any file that SimpleITK reads, a folder with one DICOM series,
    a folder of these, or an h5 file of the published layout. Several channels are one file with all
    of them, or files named <scan>_0000, <scan>_0001 and so on. The mask of a picture is <name>.png.

    A scan is brought to the orientation, spacing and intensities of the training scans, and its
    mask back. The mask has the values of the training labels, for example 255. Training scans
    without an orientation, such as the published h5 files, are taken as LPS: axes to the left, the
    posterior and the superior.
    """
    from semisam.cli.display import console, progress_bars
    from semisam.core.errors import InputError
    from semisam.core.files import printable, writable_folder
    from semisam.data.images.files import mask_ending, write_label, write_nifti
    from semisam.inference.inputs import check_outputs, gather_scans, labels_among
    from semisam.inference.predictor import class_file_names, read_scan, segment
    from semisam.inference.preview import write_preview
    from semisam.run.folder import find_run
    from semisam.run.model import load_model
    from semisam.run.preflight import check_device
    from semisam.training.allocator import keep_memory

    keep_memory()
    check_device(device)
    model = load_model(find_run(run), device)
    given = [Path(text) for text in inputs]
    scans = gather_scans(given, model.card.channels)
    labels = labels_among(given)
    if labels:
        names = [label.name for label in labels[:3]]
        shown = ", ".join(names) + (", ..." if len(labels) > 3 else "")
        text = f"Left out: {len(labels)} labels ({shown})"
        console.print(text, soft_wrap=True, markup=False)
    folder = Path(out)
    check_outputs(folder, scans, labels)
    writable_folder(folder)
    failed = 0
    with progress_bars() as bars:
        task = bars.add_task("predicting", total=len(scans))
        for name, paths in scans.items():
            try:
                scan = read_scan(paths, model.card, series)
            except InputError as error:  # the other scans are still segmented
                click.echo(printable(f"Error: {error}"), err=True)
                failed += 1
                bars.advance(task)
                continue
            found = segment(model, scan, device)
            ending = mask_ending(paths[0])
            write_label(folder / f"{name}{ending}", found.mask, scan.geometry)
            if probabilities:
                for k, title in class_file_names(model.card).items():
                    target = folder / f"{name}.{title}.probability.nii.gz"
                    write_nifti(target, found.probabilities[k], scan.geometry)
            if preview:
                target = folder / f"{name}{'.preview' if ending == '.png' else ''}.png"
                classes = model.card.class_names
                write_preview(target, scan.array, found.labelmap, scan.geometry, classes)
            bars.advance(task)
    if len(scans) > failed:
        console.print(f"Written: {len(scans) - failed} masks in {folder}")
        if model.card.label_values is not None:
            pairs = zip(model.card.class_names, model.card.label_values, strict=True)
            shown = ", ".join(f"{value} {title}" for title, value in pairs)
            text = f"Values of the masks, as in the training labels: {shown}"
            console.print(text, soft_wrap=True, markup=False)
    if failed:
        ctx.exit(2)
