"""``semisam evaluate``: score a trained method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from semisam.cli.options import Size


@click.command("evaluate", short_help="Score a trained method on the test cases.")
@click.argument("run", metavar="RUN")
@click.option("--data", metavar="FOLDER", help="Scans (default: those of the run).")
@click.option("--patch", type=Size(), help="Window in voxels (default: the run's).")
@click.option("--stride", type=Size(), help="Stride of the window (default: the run's).")
@click.option("--largest-component/--all-components", default=None, help="(default: the run's).")
@click.option("--device", default="cpu", show_default=True)
@click.option("--save-predictions", metavar="FOLDER", help="Write a NIfTI labelmap per case.")
@click.option("--out", metavar="CSV", help="Per-case scores (default: RUN/evaluation.csv).")
def command(
    run: str,
    data: str | None,
    patch: tuple[int, ...] | None,
    stride: tuple[int, ...] | None,
    largest_component: bool | None,
    device: str,
    save_predictions: str | None,
    out: str | None,
) -> None:
    """Score RUN, a run folder or a published V-Net checkpoint (.pth), on the test cases.

    A published checkpoint needs --data and --patch. Nothing in a checkpoint is executed.
    """
    import torch

    from semisam.cli.display import console, progress_bars
    from semisam.core.errors import InputError
    from semisam.core.files import writable_folder
    from semisam.data.loading.store import VolumeStore
    from semisam.inference.evaluation import evaluate, summarise
    from semisam.networks.published import PublishedVNet
    from semisam.run.build import open_dataset, recognise_dataset
    from semisam.run.execute import write_cases
    from semisam.run.model import load_run, window_stride
    from semisam.run.preflight import check_device
    from semisam.run.settings import RunSettings, make_settings
    from semisam.training.allocator import keep_memory

    keep_memory()
    path = Path(run)
    model: torch.nn.Module
    if path.is_file():
        if data is None or patch is None:
            raise InputError(
                f"a checkpoint file needs --data and --patch, got {path} without: the published "
                "patch is 112x112x80"
            )
        settings = RunSettings(labels=1, precision="fp32")
        model = PublishedVNet(path).to(device)
        target = Path(out) if out else path.with_suffix(".evaluation.csv")
    else:
        settings, model, _ = load_run(path, device)
        target = Path(out) if out else path / "evaluation.csv"
    changes: dict[str, Any] = {
        "device": device,
        "patch": patch,
        "stride": stride,
        "largest_component": largest_component,
    }
    if data is not None:
        changes |= {"data": data, "dataset": recognise_dataset(Path(data)), "dataset_options": {}}
    kept = settings.model_dump() | {k: v for k, v in changes.items() if v is not None}
    settings = make_settings(kept)
    check_device(settings)
    dataset = open_dataset(settings)
    test = dataset.split().test
    store = VolumeStore(dataset, labeled=[], unlabeled=[], test=test)
    classes = getattr(model, "num_classes", dataset.num_classes)
    if classes != dataset.num_classes:
        raise InputError(
            f"the model must have the data's {dataset.num_classes} classes, got {classes}: name "
            "the data that it was trained for"
        )
    writable_folder(target.parent)
    predictions = writable_folder(Path(save_predictions)) if save_predictions else None
    with progress_bars() as bars:
        checking = bars.add_task("checking scans", total=len(test))
        store.check(lambda done, total: bars.update(checking, completed=done))
        task = bars.add_task("evaluating", total=len(test))
        rows = evaluate(
            model,
            store,
            test,
            settings.patch,
            window_stride(settings),
            device=torch.device(device),
            precision=settings.precision,
            largest_component=settings.largest_component,
            predictions=predictions,
            on_case=lambda done, total: bars.update(task, completed=done),
        )
    write_cases(target, rows)
    summary = summarise(rows)
    console.print(
        f"{len(test)} cases: Dice {100 * summary['dice']:.2f} ± "
        f"{100 * summary['dice_sd_cases']:.2f} %, Jaccard {100 * summary['jaccard']:.2f} %, "
        f"ASD {summary['asd_voxel']:.2f} voxels, 95HD {summary['hd95_voxel']:.2f} voxels "
        f"(SD over cases), {summary['empty_predictions']} empty. Written: {target}"
    )
