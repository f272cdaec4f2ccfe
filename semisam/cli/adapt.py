"""``semisam adapt``: adapt a promptable model to labeled scans."""

from __future__ import annotations

import click

from semisam.cli.help import Command
from semisam.cli.options import Name, dataset_option, device_option


@click.command(
    "adapt",
    cls=Command,
    short_help="Adapt a promptable model to labeled scans.",
    examples=(
        "semisam adapt --data scans --labels 2 --out adapted.safetensors",
        "semisam zero-shot --data scans --set synthsam.weights=adapted.safetensors",
        "semisam zero-shot --data scans --sam sam2 --set sam2.decoder=adapted.safetensors",
    ),
)
@click.option("--data", metavar="FOLDER", help="Folder of scans. [default: generated phantoms]")
@dataset_option
@click.option("--sam", type=Name("backend"), default="synthsam", show_default=True, help="Backend.")
@click.option("--labels", type=click.IntRange(1), required=True, help="Number of labeled scans.")
@click.option(
    "--subset",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Which draw of labeled scans.",
)
@click.option("--test", default="auto", show_default=True, help="Test cases, which are left out.")
@click.option(
    "--steps", type=click.IntRange(1), default=300, show_default=True, help="Optimizer steps."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of the prompts that are drawn.",
)
@device_option
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PLUGIN.OPTION=VALUE",
    help="An option of the backend or of the dataset. Repeatable.",
)
@click.option("--out", required=True, metavar="FILE", help="The file of the weights.")
def command(
    data: str | None,
    dataset: str | None,
    sam: str,
    labels: int,
    subset: int,
    test: str,
    steps: int,
    seed: int,
    device: str,
    assignments: tuple[str, ...],
    out: str,
) -> None:
    """Adapt a promptable model to the labeled scans of a folder.

    Only the labeled training cases are read. The command writes the weights and, next to them, a
    card (.json) of what they are made from. Use them wherever the model is used.
    """
    from pathlib import Path

    from semisam.cli.display import Bars, tell
    from semisam.cli.options import option_pairs
    from semisam.core.backend import can_adapt
    from semisam.core.errors import InputError
    from semisam.core.files import writable_folder
    from semisam.plugins import registry
    from semisam.run.adapt import adapt_to_file
    from semisam.run.request import settings
    from semisam.training.allocator import keep_memory

    file = Path(out)
    for path in (file, file.with_suffix(".json")):
        if path.exists():
            raise InputError(
                f"--out must be a new file, got {path}, which exists. Name another one."
            )
    if not can_adapt(registry.load("backend", sam)):
        raise InputError(
            f"--sam must be a backend that can be adapted, got {sam}. Choose synthsam."
        )
    keep_memory()
    chosen = settings(
        method="supervised",
        data=data,
        dataset=dataset,
        sam=sam,
        sam_adapt=steps,
        labels=labels,
        subset=subset,
        test=test,
        seed=seed,
        device=device,
        options=option_pairs(assignments),
    )
    writable_folder(file.parent)
    with Bars() as bars:
        task = bars.add_task("adapting", total=steps)
        card = adapt_to_file(chosen, file, lambda done: bars.update(task, completed=done))
    tell(f"Adapted to {', '.join(card['labeled_cases'])}.")
    tell(f"Written: {file}, {file.with_suffix('.json')}")
