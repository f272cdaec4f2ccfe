"""``semisam bench``: a grid of runs and its comparison table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam.cli.executors import executor_options, take_executor
from semisam.cli.options import Names, Numbers, run_options

if TYPE_CHECKING:
    from semisam.run.settings import RunSettings

_EXAMPLES = """\b
Examples:
  semisam bench --method mt --labels 1,2
  semisam bench --data LA --method supervised,mt --labels 1,2,4 --out runs/la
"""


@click.command(
    "bench", short_help="Run a grid of methods and labels; make its table.", epilog=_EXAMPLES
)
@click.option("--method", "methods", type=Names(), required=True, help="Methods to compare.")
@click.option("--labels", type=Numbers(), default="1,2,4", show_default=True, help="Labeled cases.")
@click.option(
    "--sam",
    "sams",
    type=Names(),
    default=None,
    help="Promptable models; none is the bare method. [default: none and the embedded one]",
)
@click.option(
    "--sam-weight",
    "sam_weights",
    type=Names(),
    default="plain",
    show_default=True,
    help="plain: lambda_s as the protocol says; gated: scaled by how good SAM's answers are on "
    "labeled rows. Or both: plain,gated.",
)
@click.option(
    "--sam-control",
    "sam_controls",
    type=Names(),
    default="none",
    show_default=True,
    help="Does the gain come from SAM? oracle: prompts from the truth; truth: the truth as its "
    "answer; shuffled: answers swapped between volumes. No methods: named in the table.",
)
@click.option("--seeds", type=Numbers(), default="0", show_default=True, help="Run seeds.")
@click.option(
    "--subsets",
    type=Numbers(),
    default="0",
    show_default=True,
    help="Labeled subsets: 0 the first N of the list, k > 0 seeded draws.",
)
@click.option("--out", default="runs/bench", show_default=True, help="Where all results go.")
@executor_options
@run_options
def command(
    methods: tuple[str, ...],
    labels: tuple[int, ...],
    sams: tuple[str, ...] | None,
    sam_weights: tuple[str, ...],
    sam_controls: tuple[str, ...],
    seeds: tuple[int, ...],
    subsets: tuple[int, ...],
    out: str,
    **given: Any,
) -> None:
    """Compare methods, with and without SemiSAM, at few labels.

    Runs the grid methods x labels x SAM (its weights and controls) x subsets x seeds, each run in a
    process of its own, and writes results.csv (a row a run) and table.csv (the comparison) into the
    output folder. A run finished earlier is not run again; one that was stopped goes on where it
    was; one that another bench in the same folder is at work on is awaited.
    """
    from semisam.bench import grid, results
    from semisam.cli.display import GridDisplay, console, print_table
    from semisam.cli.options import check_names, common_settings, suggested_settings
    from semisam.core.files import writable_folder
    from semisam.frameworks.controls import CONTROLS
    from semisam.run.defaults import DEFAULT_BACKEND
    from semisam.training.processes import check_single_process

    check_single_process("bench")
    sams = sams or ("none", DEFAULT_BACKEND)
    executor = take_executor(given)
    common, options = common_settings(given, methods, sams)
    suggested = suggested_settings(common)
    check_names("--sam-weight", sam_weights, ("plain", "gated"))
    check_names("--sam-control", sam_controls, tuple(CONTROLS))
    axes = grid.Axes(methods, sams, labels, subsets, seeds, sam_weights, sam_controls)
    runs = grid.expand(axes, common, suggested, options)
    folder = grid.runs_folder(writable_folder(Path(out)))

    if "data" not in common:
        console.print(
            "No --data given: the scans are [bold]generated phantoms[/bold], the embedded default. "
            "Figures from them say nothing about real scans."
        )
    for line in _about_settings(runs, common, suggested):
        console.print(line)
    with console.status("Checking settings, plugins and scans") as status:
        named = grid.check(
            runs,
            lambda done, total: status.update(f"Checking the scans: {done} of {total}"),
            here=executor.here,
        )
    with GridDisplay(len(named)) as display:
        outcomes = executor.run_all(named, folder, display)
    frame = results.collect(folder / run.name for run in named)
    if not frame.empty:
        results.write(frame, Path(out) / "results.csv", digits=10)
        cases = results.collect_cases((folder / r.name for r in named), _left_out)
        table = results.comparison(frame, cases)
        results.write(table, Path(out) / "table.csv")
        print_table(table)
        console.print(f"Written: {Path(out) / 'table.csv'}, {Path(out) / 'results.csv'}")
    _report(outcomes)


def _left_out(fault: str) -> None:
    click.echo(f"Left out of the gains: {fault}", err=True)


def _report(outcomes: list[Any]) -> None:
    """Say what did not finish, and end with the exit code that fits."""
    for outcome in outcomes:
        if outcome.status == "failed":
            click.echo(f"Failed: {outcome.run.name}: {outcome.message}", err=True)
        elif outcome.message:
            click.echo(f"Note: {outcome.message}", err=True)
    stopped = sum(outcome.status == "interrupted" for outcome in outcomes)
    if stopped:
        click.echo(
            f"Interrupted; {stopped} of {len(outcomes)} runs are not finished, nothing is lost: "
            "run the same command again to go on.",
            err=True,
        )
        raise SystemExit(130)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        click.echo(f"{failed} of {len(outcomes)} runs failed.", err=True)
        raise SystemExit(1)


def _about_settings(
    runs: Sequence[RunSettings], common: Mapping[str, Any], suggested: Mapping[str, Any]
) -> list[str]:
    """Say which settings the user did not give, and who did."""
    free = {key: value for key, value in suggested.items() if key not in common}
    told = {k: v for k, v in free.items() if all(getattr(run, k) == v for run in runs)}
    lines = []
    if told:
        lines.append(f"Settings that suit these scans, unless you give others: {_list(told)}.")
    beaten = {key: value for key, value in free.items() if key not in told}
    if beaten:
        lines.append(
            f"Protocol {runs[0].protocol}, whatever would suit these scans ({_list(beaten)}):"
        )
        by_method = {run.method: {key: getattr(run, key) for key in beaten} for run in runs}
        lines += [f"  {method}: {_list(own)}" for method, own in by_method.items()]
    return lines


def _list(settings: Mapping[str, Any]) -> str:
    from semisam.run.settings import show_value

    return ", ".join(f"{key} {show_value(value)}" for key, value in sorted(settings.items()))
