"""``semisam predict``: new scans."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("predict", short_help="Segment new scans with a trained method.")
@click.argument("run", metavar="RUN")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--out", required=True, metavar="FOLDER", help="Where the masks go.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--probabilities", is_flag=True, help="Write each class's probability as well.")
def command(run: str, inputs: tuple[str, ...], out: str, device: str, probabilities: bool) -> None:
    """Segment each INPUT with the trained RUN and write <name>.nii.gz in the scan's own geometry.

    An input is any file that SimpleITK reads, a folder with one DICOM series, or an h5 file of the
    published layout. A scan of another spacing is brought to that of the training scans and back.
    """
    import numpy as np
    import torch

    from semisam.allocator import keep_memory
    from semisam.cli.display import console, progress_bars
    from semisam.data.io import write_nifti
    from semisam.errors import InputError
    from semisam.evaluation import predict_probabilities
    from semisam.files import writable_folder
    from semisam.metrics import largest_components
    from semisam.prediction import output_names, read_scan, to_grid, to_spacing
    from semisam.run import load_run, window_stride

    keep_memory()
    names = output_names([Path(text) for text in inputs])
    missing = [str(path) for path in names.values() if not path.exists()]
    if missing:
        raise InputError(f"every input must exist, got {', '.join(missing)}: check the path")
    settings, framework, card = load_run(Path(run), device)
    folder = writable_folder(Path(out))
    with progress_bars() as bars:
        task = bars.add_task("predicting", total=len(names))
        for name, path in names.items():
            scan = read_scan(path, card.channels, card.spacing)
            probs = predict_probabilities(
                framework,
                to_spacing(scan, card.spacing),
                settings.patch,
                window_stride(settings),
                device=torch.device(device),
                precision=settings.precision,
            )
            probs = to_grid(probs, scan.array.shape[1:]).cpu()
            labelmap = probs.argmax(0).numpy().astype(np.uint8)
            if settings.largest_component:
                labelmap = largest_components(labelmap, len(card.class_names)).astype(np.uint8)
            write_nifti(folder / f"{name}.nii.gz", labelmap, scan.geometry)
            if probabilities:
                for k, title in enumerate(card.class_names[1:], start=1):
                    label = title.replace(" ", "-").replace("/", "-")
                    target = folder / f"{name}.{label}.probability.nii.gz"
                    write_nifti(target, probs[k].numpy(), scan.geometry)
            bars.advance(task)
    console.print(f"Written: {len(names)} masks in {folder}")
