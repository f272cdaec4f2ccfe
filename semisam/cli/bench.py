"""``semisam bench``: a grid of runs and its comparison table."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semisam import __version__
from semisam.cli.executors import executor_options, take_executor
from semisam.cli.help import Command, options_of
from semisam.cli.options import OVER, Names, Numbers, given_settings, run_options

if TYPE_CHECKING:
    from semisam.bench.executors.contract import Outcome
    from semisam.bench.grid import Run
    from semisam.bench.study import Grid
    from semisam.run.settings import RunSettings

_OUT = "runs/bench"
_own = options_of("The grid")


@click.command(
    "bench",
    cls=Command,
    short_help="Run a grid of methods and labels; make its table.",
    examples=(
        "semisam bench --method mt --labels 1,2 --seeds 5x --dry-run",
        "semisam bench --data LA --method supervised,mt --labels 1,2,4 --out runs/la",
        "semisam bench runs/la --seeds 0-2",
    ),
)
@click.argument("study", required=False, metavar="[STUDY]")
@_own("--method", type=Names("framework"), help="Methods to compare.")
@_own("--labels", type=Numbers(), help="Labeled cases. [default: 1,2,4]")
@_own(
    "--sam",
    type=Names("backend"),
    help="Backends; `none` is the bare method, a plus joins several. [default: `none` and the "
    "embedded one]",
)
@_own(
    "--sam-control",
    type=Names(),
    help="Controls of the branch, for attribution. oracle: prompts from the truth; truth: the "
    "truth as target; shuffled: SAM's predictions swapped between volumes; moved: and shifted at "
    "random. [default: none]",
)
@_own("--seeds", type=Numbers(times=True), help="Run seeds, also 0-4 or 5x. [default: 0]")
@_own(
    "--subsets",
    type=Numbers(times=True),
    help="Labeled subsets: 0 is the first N of the list, k > 0 a seeded draw. [default: 0]",
)
@_own("--out", metavar="FOLDER", help=f"Output folder. [default: {_OUT}]")
@_own(
    "--dry-run",
    is_flag=True,
    help="End with the number of runs, and with time, memory and disk from a few measured steps. "
    "Nothing is written.",
)
@_own("--quiet", is_flag=True, help="Print errors only. The log and the tables are written.")
@_own("--verbose", is_flag=True, help="Print each phase of each run, with its time.")
@_own("--yes", is_flag=True, help="Do not ask before a study of more than an hour.")
@run_options
@executor_options
def command(
    study: str | None,
    out: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    yes: bool,
    max_time: float | None,
    **given: Any,
) -> None:
    """Compare methods, with and without SemiSAM, at few labels.

    The grid is methods x labels x SAM (and its controls) x subsets x seeds. Each run has
    its own process. The output folder receives results.csv (a row per run), table.csv (the
    comparison) and study.toml (the grid). A finished run is kept, a stopped one resumes, and a run
    of another bench in the same folder is awaited.

    STUDY is a study.toml, or the folder of an earlier bench. Its runs are finished, and values of
    its axes (--labels, --seeds and so on) are added. --data names its scans where they are now.
    Defaults are those of protocol `default`.
    """
    from semisam.bench.study import add_to_study, checked, execute, tabulate
    from semisam.cli.display import GridDisplay, be_quiet, console, print_table, tell
    from semisam.cli.log import log, logged
    from semisam.core.errors import InputError
    from semisam.core.files import check_writable
    from semisam.core.layout import STUDY_LOG
    from semisam.training.processes import check_single_process
    from semisam.training.signals import interrupt_after, sigterm_as_interrupt

    check_single_process("bench")
    if quiet and verbose:
        raise InputError("--quiet must come without --verbose, got both. Leave one out.")
    if quiet:
        be_quiet()
    executor = take_executor(given)
    grids, folder = _grids(study, out, given)
    lost: list[str] = []
    with console.status("Checking settings, plugins and scans") as status:

        def show(done: int, total: int) -> None:
            status.update(f"Checking the scans: {done} of {total}")

        if not dry_run:
            check_writable(folder)
        runs, ran = checked(grids, show, here=executor.here, on_lost=lost.append)
    settings = [run.settings for run in runs]
    for line in [*_about_data(grids), *_about_settings(settings, grids), *_about_test(settings)]:
        console.print(line)
    if dry_run:
        _print_size(runs, folder, here=executor.here)
        for reason in lost:
            click.echo(f"Runs are left out: {reason}", err=True)
        return
    if executor.here and not yes and _at_a_terminal():
        _ask(runs, folder)
    add_to_study(folder, ran)
    with (
        GridDisplay(runs, folder) as display,
        logged(folder, verbose=verbose),
        sigterm_as_interrupt(),
        interrupt_after(max_time) as over,
    ):
        log(f"semisam {__version__}: {len(runs)} runs in {folder}")
        outcomes = execute(runs, folder, executor, display)
        log(_told_end(outcomes))
    table = tabulate(folder, lambda fault: click.echo(f"Left out: {fault}", err=True))
    if not table.empty:
        print_table(table)
        files = ", ".join(str(folder / name) for name in ("table.csv", "results.csv", STUDY_LOG))
        tell(f"Written: {files}")
        tell(f"A page with pictures: semisam report {shlex.quote(str(folder))}")
    for reason in lost:
        click.echo(f"Runs are left out: {reason}", err=True)
    _report(outcomes, over())
    if lost:
        raise SystemExit(1)


def _grids(study: str | None, out: str | None, given: dict[str, Any]) -> tuple[list[Grid], Path]:
    """Return the grids of the command line, and their folder."""
    from semisam.bench.grid import Axes
    from semisam.bench.study import AXES, DEFAULT_SAMS, Grid, read_study
    from semisam.core.errors import InputError
    from semisam.run.request import by_plugin

    axes = {name: given[name] for name in AXES if given[name] is not None}
    settings, options = given_settings(given)
    if study is not None:
        path = Path(study)
        grids = [grid.extended(axes) for grid in read_study(path)]
        of_the_place = {"device"} | (
            {"data"} if all("data" in g.settings for g in grids) else set()
        )
        place = {name: settings.pop(name) for name in of_the_place & set(settings)}
        idle = [f"--{name.replace('_', '-')}" for name in settings] + ["--set"] * bool(options)
        if idle:
            raise InputError(
                f"the settings of a study must stay, got {', '.join(idle)}. Leave it out, or start "
                "another study with --out."
            )
        folder = Path(out) if out else path if path.is_dir() else path.parent
        return [replace(g, settings={**g.settings, **place}) for g in grids], folder
    if "method" not in axes:
        raise InputError("--method must name at least one method, got 0. Name for example mt.")
    axes.setdefault("sam", DEFAULT_SAMS)
    chosen = Axes(**{AXES[name]: values for name, values in axes.items()})
    return [Grid(chosen, settings, by_plugin(options))], Path(out or _OUT)


def _print_size(runs: Sequence[Run], folder: Path, *, here: bool) -> None:
    """Print the number of runs, and the time of their training.

    Args:
        runs: of the study.
        folder: of the study, with runs that are done.
        here: True if the runs train on this machine, so that steps can be measured.
    """
    from semisam.bench.estimate import costs
    from semisam.cli.display import console
    from semisam.core.words import spoken_time

    left = _to_do(runs, folder)
    console.print(f"{len(runs)} runs: {len(runs) - len(left)} are done, {len(left)} to do.")
    if not here:
        console.print("The time is not measured, because the runs train on other machines.")
        return
    if not left:
        return
    total, found = 0.0, []
    for cost in costs(left):
        total += cost.seconds
        found.append(cost)
        parts = [f"{cost.runs} run{'s' if cost.runs > 1 else ''}"]
        if cost.iterations:
            parts.append(f"{cost.iterations} steps of {cost.pace.seconds:.2g} s")
        if cost.adapting:
            parts.append(f"{spoken_time(cost.adapting)} of adapting")
        console.print(f"  {cost.title}: {', '.join(parts)}: {spoken_time(cost.seconds)}")
    console.print(
        f"The training takes {spoken_time(total)}, one run after the other on this machine. The "
        "tests come on top."
    )
    paces = [cost.pace for cost in found]
    console.print(
        f"Peak memory of the training: {_size(max(pace.memory for pace in paces))}. Disk: "
        f"{_size(sum(cost.disk for cost in found))} of weights in {folder}, and "
        f"{_size(2 * max(pace.checkpoint for pace in paces))} of checkpoints for each run at work. "
        "Nothing was written."
    )


def _to_do(runs: Sequence[Run], folder: Path) -> list[Run]:
    """Return the runs of a study that are not done."""
    from semisam.run.folder import list_runs

    found = list_runs(folder) if folder.is_dir() else []
    done = {run.name for run in found if run.state == "done"}
    return [run for run in runs if run.name not in done]


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(runs: Sequence[Run], folder: Path) -> None:
    """Measure a few steps, and ask whether to start if the training takes more than an hour."""
    from semisam.bench.estimate import takes_long
    from semisam.cli.display import console

    with console.status("Measuring a few steps"):
        long = takes_long(_to_do(runs, folder))
    if long:
        text = "The training takes more than an hour (--dry-run has the time). Start?"
        click.confirm(text, default=True, abort=True)


def _told_end(outcomes: Sequence[Outcome]) -> str:
    """Return how many runs ended how, for the log."""
    counts = Counter(outcome.status for outcome in outcomes)
    return f"ended: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def _report(outcomes: Sequence[Outcome], over: bool) -> None:
    """Print the runs that did not finish, and exit with the matching code.

    Args:
        outcomes: of all runs.
        over: True if the time of ``--max-time`` is over.
    """
    for outcome in outcomes:
        if outcome.status == "failed":
            click.echo(f"Failed: {outcome.run.name}: {outcome.message}", err=True)
        elif outcome.message:
            click.echo(f"Note: {outcome.message}", err=True)
    stopped = sum(outcome.status == "interrupted" for outcome in outcomes)
    if stopped:
        why = "The time of --max-time is over" if over else "Interrupted"
        click.echo(
            f"{why}; {stopped} of {len(outcomes)} runs are not finished. Nothing is lost. "
            "Run the same command again to resume.",
            err=True,
        )
        raise SystemExit(OVER if over else 130)
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if failed:
        click.echo(f"{failed} of {len(outcomes)} runs failed.", err=True)
        raise SystemExit(1)


def _about_data(grids: Sequence[Grid]) -> list[str]:
    if any("data" in grid.settings for grid in grids):
        return []
    return [
        "No --data given: the scans are [bold]generated phantoms[/bold], the embedded default. "
        "Their figures do not apply to real scans."
    ]


def _about_test(runs: Sequence[RunSettings]) -> list[str]:
    """Return a line on the test cases of each way to choose them."""
    from semisam.run.build import describe_test, open_dataset

    ways: dict[tuple[Any, ...], list[RunSettings]] = {}
    for run in runs:
        ways.setdefault((run.test, run.data, repr(run.dataset_options)), []).append(run)
    lines = []
    for alike in ways.values():
        several = len({run.fold for run in alike}) > 1
        run = alike[0].model_copy(update={"fold": None}) if several else alike[0]
        lines.append(describe_test(run, open_dataset(run)))
    return lines


def _about_settings(runs: Sequence[RunSettings], grids: Sequence[Grid]) -> list[str]:
    """Return lines on the settings that the user did not give, and their source."""
    lines = []
    for grid in grids:
        suggested = grid.asked.suggested
        free = {key: value for key, value in suggested.items() if key not in grid.settings}
        own = [run for run in runs if run.method in grid.axes.methods]
        told = {k: v for k, v in free.items() if all(getattr(run, k) == v for run in own)}
        if told:
            lines.append(f"Settings fitted to these scans, unless you give others: {_list(told)}.")
        beaten = [key for key in free if key not in told]
        if beaten:
            values = {key: free[key] for key in beaten}
            lines.append(
                f"Protocol {own[0].protocol} replaces values fitted to these scans "
                f"({_list(values)}):"
            )
            by_method = {run.method: {key: getattr(run, key) for key in beaten} for run in own}
            lines += [f"  {method}: {_list(values)}" for method, values in by_method.items()]
    return lines


def _list(settings: Mapping[str, Any]) -> str:
    from semisam.run.settings import show_value

    return ", ".join(f"{key} {show_value(value)}" for key, value in sorted(settings.items()))
