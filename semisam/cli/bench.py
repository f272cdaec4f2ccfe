"""``semisam bench``: a grid of runs and its comparison table."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
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
    from semisam.bench.announcement import announcement
    from semisam.bench.running import checked, finish_runs, tabulate
    from semisam.bench.study import add_to_study
    from semisam.cli.display import GridDisplay, be_quiet, console, print_table, tell
    from semisam.cli.log import log, logged
    from semisam.core.errors import InputError
    from semisam.core.files import check_writable
    from semisam.core.layout import RESULTS, STUDY_LOG, TABLE
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
    for line in announcement(grids, [run.settings for run in runs]):
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
        outcomes = finish_runs(runs, folder, executor, display)
        log(_told_end(outcomes))
    table = tabulate(folder, lambda fault: click.echo(f"Left out: {fault}", err=True))
    if not table.empty:
        print_table(table)
        files = ", ".join(str(folder / name) for name in (TABLE, RESULTS, STUDY_LOG))
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
    from semisam.bench.study import AXES, DEFAULT_SAMS, Grid, continued
    from semisam.core.errors import InputError
    from semisam.run.request import by_plugin

    axes = {name: given[name] for name in AXES if given[name] is not None}
    settings, options = given_settings(given)
    if study is not None:
        path = Path(study)
        folder = Path(out) if out else path if path.is_dir() else path.parent
        return continued(path, axes, settings, options), folder
    if "method" not in axes:
        raise InputError("--method must name at least one method, got 0. Name for example mt.")
    axes.setdefault("sam", DEFAULT_SAMS)
    chosen = Axes(**{AXES[name]: values for name, values in axes.items()})
    return [Grid(chosen, settings, by_plugin(options))], Path(out or _OUT)


def _print_size(runs: Sequence[Run], folder: Path, *, here: bool) -> None:
    """Print the number of runs, and their time, memory and disk.

    Args:
        runs: of the study.
        folder: of the study, with runs that are done.
        here: True if the runs train on this machine, so that steps can be measured.
    """
    from semisam.bench.estimate import HOUR, costs, shorter, unfinished
    from semisam.cli.display import console
    from semisam.core.words import spoken_size, spoken_time

    left = unfinished(runs, folder)
    console.print(f"{len(runs)} runs: {len(runs) - len(left)} are done, {len(left)} to do.")
    if not here:
        console.print("The time is not measured, because the runs train on other machines.")
        return
    if not left:
        return
    found = []
    with console.status("Measuring a few steps"):
        for cost in costs(left):
            found.append(cost)
            parts = [f"{cost.runs} run{'s' if cost.runs > 1 else ''}"]
            if cost.iterations:
                parts.append(f"{cost.iterations} steps of {cost.pace.seconds:.2g} s")
            if cost.adapting:
                parts.append(f"{spoken_time(cost.adapting)} of adapting")
            if round(cost.testing):
                parts.append(f"{spoken_time(cost.testing)} of tests")
            console.print(f"  {cost.title}: {', '.join(parts)}: {spoken_time(cost.seconds)}")
    total = sum(cost.seconds for cost in found)
    console.print(f"They take {spoken_time(total)}, one run after the other on this machine.")
    if total > HOUR and (hint := shorter(found, left[0].settings)):
        console.print(hint)
    paces = [cost.pace for cost in found]
    console.print(
        f"Peak memory of the training: {spoken_size(max(pace.memory for pace in paces))}. Disk: "
        f"{spoken_size(sum(cost.disk for cost in found))} of weights in {folder}, and "
        f"{spoken_size(2 * max(pace.checkpoint for pace in paces))} of checkpoints for each run at "
        "work. Nothing was written."
    )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _ask(runs: Sequence[Run], folder: Path) -> None:
    """Measure a few steps, and ask whether to start if the runs take more than an hour."""
    from semisam.bench.estimate import takes_long, unfinished
    from semisam.cli.display import console

    with console.status("Measuring a few steps"):
        long = takes_long(unfinished(runs, folder))
    if long:
        text = "The runs take more than an hour (--dry-run has the time). Start?"
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
