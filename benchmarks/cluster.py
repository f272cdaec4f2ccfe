"""Try the cluster road on a real SLURM and write what happened.

Needs a running SLURM: `benchmarks/slurm_loopback.sh start`.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TESTS = "tests/bench/test_cluster.py"


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", TESTS, "-k", "real", f"--junitxml={report}"]
        subprocess.run(command, env={**os.environ, "SEMISAM_SLURM": "1"}, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        rows = [
            (*_names(case), _outcome(case), round(float(case.attrib["time"]))) for case in cases
        ]
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True)
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tried", "batch system", "outcome", "seconds", "test"])
        for tried, test, outcome, seconds in rows:
            writer.writerow([tried, version.stdout.strip(), outcome, seconds, test])


def _names(case: ElementTree.Element) -> tuple[str, str]:
    name = case.attrib["name"].partition("[")[0]
    return re.sub("^test ", "", name.replace("_", " ")), f"{TESTS}::{name}"


def _outcome(case: ElementTree.Element) -> str:
    return next(
        (kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cluster.csv"))
    main(parser.parse_args().out)
