"""``semisam zero-shot``: the scores of a promptable model without any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam.cli.help import Choice, Command
from semisam.cli.options import Names, Numbers, device_option

if TYPE_CHECKING:
    from semisam.bench.zero_shot import Clicks


@click.command(
    "zero-shot",
    cls=Command,
    short_help="Score promptable models by clicks from the truth.",
    examples=("semisam zero-shot --data scans --sam synthsam,geodesic --points 1,5",),
)
@click.option("--data", metavar="FOLDER", help="Folder of scans. [default: generated phantoms]")
@click.option(
    "--dataset", metavar="NAME", help="Dataset plugin. [default: the one that reads the folder]"
)
@click.option(
    "--sam",
    "names",
    type=Names("backend"),
    default=None,
    help="Backends; a plus joins several. [default: the embedded one]",
)
@click.option(
    "--points",
    type=Numbers(),
    default="1,2,5,10",
    show_default=True,
    help="Clicks per volume; per slice for models that work slice by slice.",
)
@click.option(
    "--clicks",
    type=Choice(["published", "random"]),
    default="published",
    show_default=True,
    help="published: two clicks deep inside the error, then anywhere in it; random: anywhere.",
)
@click.option(
    "--seeds", type=Numbers(times=True), default="0", show_default=True, help="Seeds of the clicks."
)
@click.option("--cases", type=click.IntRange(min=1), help="Use only the first N test cases.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PLUGIN.OPTION=VALUE",
    help="An option of a backend or of the dataset. Repeatable.",
)
@device_option
@click.option("--out", default="runs/zero-shot", show_default=True, help="Folder of the tables.")
def command(
    data: str | None,
    dataset: str | None,
    names: tuple[str, ...] | None,
    points: tuple[int, ...],
    clicks: Clicks,
    seeds: tuple[int, ...],
    cases: int | None,
    assignments: tuple[str, ...],
    device: str,
    out: str,
) -> None:
    """Segment the test cases with promptable models, without a method: Table I of the paper.

    The clicks are simulated from the TRUTH of the test cases, as for SAM-Med3D. The first is in the
    target, each further one where the prediction is wrong. Only in this command truth makes
    prompts. It measures the model, not a method. Each model gets earlier clicks as in its training:
    the clicks, its last prediction, or both. The command writes cases.csv and table.csv.
    """
    from semisam.bench import zero_shot
    from semisam.bench.results import write
    from semisam.cli.display import Bars, print_zero_shot, tell
    from semisam.core.errors import InputError
    from semisam.core.files import writable_folder
    from semisam.data.loading.store import VolumeStore
    from semisam.run.preflight import check_device
    from semisam.run.settings import DEFAULT_BACKEND
    from semisam.training.allocator import keep_memory

    keep_memory()
    place = check_device(device)
    names = names or (DEFAULT_BACKEND,)
    if min(points) < 1:
        raise InputError(f"--points must be at least 1, got {min(points)}.")
    backends, opened = _open(data, dataset, names, assignments)
    folder = writable_folder(Path(out))
    if any((folder / name).exists() for name in ("cases.csv", "table.csv")):
        raise InputError(
            f"--out must be a folder without the table of an earlier call, got {out}. Name another."
        )
    test = opened.split().test[:cases]
    store = VolumeStore(opened, labeled=[], unlabeled=[], test=test)
    if data is None:
        tell("No --data given: the scans are generated phantoms.")
    tell(f"Prompts: {zero_shot.NOTE}.")
    with Bars() as bars:
        checking = bars.add_task("checking scans", total=len(test))
        store.check(lambda done, total: bars.update(checking, completed=done))
        task = bars.add_task("querying", total=None)
        rows = zero_shot.run(
            backends,
            store,
            sorted(points),
            seeds,
            lambda done, total: bars.update(task, completed=done, total=total),
            clicks,
            place,
        )
    solid = bool(test) and store.image(test[0]).array.ndim == 4
    by_slice = [n for n, b in backends.items() if getattr(b, "slice_axis", None) is not None]
    slices = by_slice if solid else []
    table = zero_shot.summary(rows, slices, clicks)
    if opened.name == "la":
        import pandas as pd

        # Marked as the paper's rows, which have another resolution and another crop.
        table = pd.concat([table, zero_shot.paper_rows()], ignore_index=True)
    write(rows, folder / "cases.csv")
    write(table, folder / "table.csv")
    print_zero_shot(table)
    tell(f"Written: {folder / 'table.csv'}, {folder / 'cases.csv'}")


def _open(
    data: str | None, dataset: str | None, names: tuple[str, ...], given: tuple[str, ...]
) -> tuple[dict[str, Any], Any]:
    """Return the backends by name, and the dataset, their options checked."""
    from semisam.cli.options import assignments
    from semisam.core.errors import InputError
    from semisam.plugins import registry
    from semisam.plugins.construction import construct
    from semisam.run.build import open_plugin, recognise_dataset

    options = assignments(given)
    path = None if data is None else Path(data)
    dataset = dataset or recognise_dataset(path)
    known = registry.with_members("backend", names)
    idle = sorted(set(options) - {*known, dataset})
    if idle:
        raise InputError(
            f"--set must name a backend or the dataset, got {', '.join(idle)}. Name one of "
            f"{', '.join([*known, dataset])}."
        )
    own = {name: registry.options_of("backend", name, options) for name in names}
    checked = {name: registry.check_options("backend", name, own[name]) for name in names}
    for name in names:
        # Every slice of the target gets its own clicks here, as in the paper.
        if any(option.name == "propagate" for option in registry.describe_options("backend", name)):
            checked[name].setdefault("propagate", False)
    backends = {name: construct("backend", name, (), checked[name]) for name in names}
    blind = [name for name, backend in backends.items() if "points" not in backend.accepts]
    if blind:
        raise InputError(
            f"a backend must accept points for zero-shot, got {', '.join(blind)}. Leave it out."
        )
    return backends, open_plugin(dataset, path, options.get(dataset, {}))
