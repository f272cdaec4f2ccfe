"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.4
    _ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])

BRANCH = "semisam"
"""The name under which ``--set`` reaches the SemiSAM branch's own options."""


class Names(_ParamType):
    """``a,b,c``: names separated by commas."""

    name = "NAME,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Split and strip."""
        if not isinstance(value, str):
            return tuple(value)
        names = tuple(part.strip() for part in value.split(","))
        if not all(names):
            self.fail(f"names separated by commas are required, got {value!r}", param, ctx)
        return tuple(dict.fromkeys(names))


class Numbers(_ParamType):
    """``1,2,4``: whole numbers separated by commas."""

    name = "N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Split and convert."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(dict.fromkeys(int(part) for part in value.split(",")))
        except ValueError:
            self.fail(f"whole numbers separated by commas are required, got {value!r}", param, ctx)


class Size(_ParamType):
    """``64x64x48``: voxels per axis."""

    name = "WxHxD"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Split at ``x`` or a comma."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(int(part) for part in value.lower().replace(",", "x").split("x"))
        except ValueError:
            self.fail(f"voxels per axis such as 64x64x48 are required, got {value!r}", param, ctx)


_OPTIONS = (
    click.option("--data", metavar="FOLDER", help="Scans; without it, generated phantoms."),
    click.option("--dataset", metavar="NAME", help="Dataset plugin; else the folder tells."),
    click.option("--network", metavar="NAME", help="Network plugin (vnet)."),
    click.option("--prompter", metavar="NAME", help="Prompter plugin (center-points)."),
    click.option(
        "--protocol",
        metavar="NAME",
        help="default: the branch as it worked best here; paper: its equations; published: each "
        "method's own code.",
    ),
    click.option(
        "--sam-every", type=int, help="Ask SAM once in so many iterations, at as many times (1)."
    ),
    click.option(
        "--sam-floor", type=float, help="Ask SAM no more where lambda_s is below this (0)."
    ),
    click.option("--iterations", type=int, help="Optimizer steps (6000, or as the data suggest)."),
    click.option("--patch", type=Size(), help="Training patch and test window, in voxels."),
    click.option("--batch", type=int, help="Rows of a batch, labeled and unlabeled (4)."),
    click.option("--labeled-rows", type=int, help="Labeled rows among them (half)."),
    click.option(
        "--micro-batch",
        type=int,
        help="Rows at once, gradients accumulated; BatchNorm and Dice see no more (the batch).",
    ),
    click.option(
        "--allow-accumulation",
        is_flag=True,
        default=None,
        help="Halve the micro-batch, once, if a step does not fit into memory.",
    ),
    click.option("--lr", type=float, help="SGD's initial learning rate (0.01)."),
    click.option("--lr-step", type=int, help="Iterations between divisions of it by ten (2500)."),
    click.option("--clip", type=float, help="Maximal gradient norm (no clipping)."),
    click.option(
        "--norm-batches",
        type=int,
        help="Batches for BatchNorm's statistics after training; 0: running averages (16, or 0 "
        "with paper and published).",
    ),
    click.option("--precision", type=click.Choice(["bf16", "fp16", "fp32"]), help="(bf16)"),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (a GPU if there is one)."),
    click.option("--stride", type=Size(), help="Test window's stride (18/18/4 at 112/112/80)."),
    click.option(
        "--largest-component/--all-components",
        default=None,
        help="Keep each predicted class's largest component only (no).",
    ),
    click.option("--save-predictions", is_flag=True, default=None, help="NIfTI per test case."),
    click.option("--checkpoint-every", type=int, help="Iterations between checkpoints (100)."),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="PLUGIN.OPTION=VALUE",
        help="An option of a method, backend, prompter, network, dataset, or of the branch itself "
        f"({BRANCH}.weight=0.2). `semisam plugins NAME` lists them. Repeatable.",
    ),
)


def run_options(function: F) -> F:
    """Give a command the options of a run."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def dataset_options(function: F) -> F:
    """Give a command the options that say which dataset a folder is, and how it is read."""
    for option in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="DATASET.OPTION=VALUE",
            help="An option of the dataset, e.g. folder.spacing=1,1,2. Repeatable.",
        ),
        click.option("--dataset", metavar="NAME", help="Dataset plugin; else the folder tells."),
    ):
        function = option(function)
    return function


def named_dataset(
    path: Path, dataset: str | None, given: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """Return the name of the dataset plugin that reads a folder, and its options.

    Raises:
        InputError: no plugin recognises the folder, or ``--set`` names another plugin.
        PluginError: the plugin has no such option, or not of that type.
    """
    from semisam.core.errors import InputError
    from semisam.plugins import registry
    from semisam.run.build import recognise_dataset

    name = dataset or recognise_dataset(path)
    options = assignments(given)
    idle = sorted(set(options) - {name})
    if idle:
        raise InputError(f"--set must name the dataset {name} here, got {', '.join(idle)}")
    return name, registry.check_options("dataset", name, options.get(name, {}))


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a name that an option does not know.

    Raises:
        InputError: naming the option and what it knows.
    """
    from semisam.core.errors import InputError

    wrong = [name for name in names if name not in known]
    if wrong:
        raise InputError(f"{option} must be of {', '.join(known)}; got {', '.join(wrong)}")


def assignments(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Parse ``--set`` values into options by plugin name.

    Raises:
        InputError: if one is not of the form ``plugin.option=value``.
    """
    from semisam.core.errors import InputError

    found: dict[str, dict[str, str]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        plugin, dot, option = place.strip().rpartition(".")
        if not (equals and dot and plugin and option):
            raise InputError(
                f"--set must be of the form PLUGIN.OPTION=VALUE, got {text!r}: for example "
                "--set mt.ema_decay=0.995"
            )
        found.setdefault(plugin, {})[option.replace("-", "_")] = value.strip()
    return found


def common_settings(
    given: Mapping[str, Any], methods: Sequence[str], sams: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Turn the shared options into settings common to all runs, and options by plugin name.

    Args:
        given: the values of `run_options`, ``None`` where the user gave none.
        methods: that will run.
        sams: backends that will run.

    Raises:
        InputError: if ``--set`` names a plugin that takes no part.
        PluginError: if a plugin has no such option, or not of that type.
    """
    import torch

    from semisam.core.errors import InputError
    from semisam.frameworks.semisam import SemiSAM
    from semisam.plugins import registry
    from semisam.run.build import recognise_dataset
    from semisam.run.protocols import DEFAULT
    from semisam.run.settings import prescribed_prompter

    options = assignments(given.get("assignments", ()))
    common = {
        key: value for key, value in given.items() if value is not None and key != "assignments"
    }
    for option in ("every", "floor"):
        value = common.pop(f"sam_{option}", None)
        if value is not None:
            options.setdefault(BRANCH, {})[option] = str(value)
    if "data" in common:
        path = Path(common["data"])
        # Runs have processes of their own, whose working folder is not the concern of a result.
        common["data"] = str(path.resolve())
        if "dataset" not in common:
            common["dataset"] = recognise_dataset(path)
    common.setdefault("dataset", "phantom")
    prompter = common.get("prompter", prescribed_prompter(common.get("protocol", DEFAULT)))
    common.setdefault("device", "cuda" if torch.cuda.is_available() else "cpu")
    for kind, default in (
        ("dataset", "phantom"),
        ("network", "vnet"),
        ("prompter", prompter),
    ):
        name = common.get(kind, default)
        if name in options:
            given_here = options.pop(name)
            common[f"{kind}_options"] = registry.check_options(kind, name, given_here)
    if BRANCH in options:
        common["semisam_options"] = registry.check_keywords(SemiSAM, BRANCH, options.pop(BRANCH))
    idle = sorted(set(options) - set(methods) - set(sams))
    if idle:
        taking_part = [
            *(*methods, *(s for s in sams if s != "none"), common["dataset"]),
            *(common.get("network", "vnet"), prompter, BRANCH),
        ]
        wrong = ", ".join(f"{name}{registry.nearest(name, taking_part)}" for name in idle)
        raise InputError(
            f"--set must name a plugin that takes part, got {wrong}; here these do: "
            f"{', '.join(taking_part)}"
        )
    # Typed from here on: 0.9 and 0.90 are the same setting, so the same run.
    kinds = {name: "framework" for name in methods} | {name: "backend" for name in sams}
    typed = {n: registry.check_options(kinds[n], n, given) for n, given in options.items()}
    return common, typed


def suggested_settings(common: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the dataset suggests where the user says nothing."""
    from semisam.run.build import open_dataset
    from semisam.run.settings import make_settings

    probe = {key: common[key] for key in ("data", "dataset", "dataset_options") if key in common}
    return dict(open_dataset(make_settings({**probe, "labels": 1})).suggested)
