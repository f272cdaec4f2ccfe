"""The share of small random faults in the code that the tests of a package find, one at a time.

    python benchmarks/mutation.py --mutants 20 --seed 0 [--out benchmarks/results/mutation.csv]

It needs cosmic-ray (`pip install cosmic-ray`) in the environment of the tests. Places in the code
are drawn at random, without annotations, and one of the mutants of cosmic-ray at each. A copy of
the repository gets one mutant at a time and runs the tests of the package (those that are not slow)
up to the first failure. A mutant that runs into the time limit counts as killed. The differences
of those that survive are printed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from rows import write_rows

PACKAGES = ("frameworks", "prompters", "metrics", "inference", "data/loading")
ROOT = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
# What the tests import, read once and not for every mutant.
FORKS.set_forkserver_preload(
    ["torch", "pytest", "hypothesis", "SimpleITK", "scipy.ndimage", "skimage"]
)


def annotations(source):
    """Return first and last position of each annotation, as (line, column)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                found.append(
                    ((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset))
                )
    return found


def places(path):
    """Return the mutants of a file, (operator, occurrence), by place."""
    source = path.read_text()
    nodes = list(ast_nodes(get_ast(source)))
    outside = annotations(source)
    found = defaultdict(list)
    for name in cosmic_ray.plugins.operator_names():
        kind = cosmic_ray.plugins.get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        positions = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            if not any(first <= start and end <= last for first, last in outside):
                found[path, start, end].append((operator, occurrence))
    return found


def draw(package, count, rng):
    """Return places of a package at random, and one of the mutants at each."""
    found = {}
    for path in sorted(Path("semisam", package).rglob("*.py")):
        found |= places(path)
    chosen = sorted(found)
    rng.shuffle(chosen)
    return [(place[0], *rng.choice(found[place])) for place in chosen[:count]]


def passes(package, seconds):
    """Return whether the package's tests pass, in a process of their own."""
    process = FORKS.Process(target=run_tests, args=(package, Path.cwd()))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def run_tests(package, folder):
    """Run the tests of a package of the repository in a folder, without any output."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    sys.exit(pytest.main([*options, f"tests/{package}"]))


def score(package, mutants, seconds):
    """Run the tests with each mutant and return the package's row."""
    if not passes(package, seconds):
        raise SystemExit(f"without a mutant the tests of {package} must pass")
    killed = 0
    for path, operator, occurrence in mutants:
        source = path.read_text()
        mutant = mutate_code(source, operator, occurrence)
        path.write_text(mutant)
        survived = passes(package, seconds)
        path.write_text(source)
        killed += not survived
        before, after = (text.splitlines() for text in (source, mutant))
        difference = "\n".join(difflib.unified_diff(before, after, lineterm="", n=0))
        line = difference.splitlines()[2].split()[1]
        print("SURVIVED" if survived else "killed", path, line, type(operator).__name__, flush=True)
        if survived:
            print(difference, flush=True)
    row = {"package": package, "mutants": len(mutants), "killed": killed}
    return row | {"survived": len(mutants) - killed}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=20, help="of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--packages", default=",".join(PACKAGES))
    parser.add_argument("--seconds", type=float, default=200.0, help="time limit of a mutant")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out and args.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        unused = shutil.ignore_patterns(".*", "__pycache__", "results", "runs", "dist")
        shutil.copytree(ROOT, copy, ignore=unused)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        rows = []
        for package in args.packages.split(","):
            mutants = draw(package, args.mutants, random.Random(f"{args.seed} {package}"))
            rows.append(score(package, mutants, args.seconds))
            print(rows[-1], flush=True)
            if out:
                write_rows(out, rows)


if __name__ == "__main__":
    main()
