"""``docs/example-plugin``: what ``semisam new`` writes, installed, tested and trained."""

from __future__ import annotations

import pandas as pd
import pytest
from tiny_runs import TINY_NET

from semisam.plugins.scaffold import write_project


def test_the_example_is_what_new_writes(example_plugin, tmp_path):
    """So neither rots. To renew it: write the project and copy it over the example."""
    written = write_project("framework", "pi-model", tmp_path)

    def files(folder):
        kept = (p for p in folder.rglob("*") if p.suffix in (".py", ".toml", ".md"))
        return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in kept}

    assert files(example_plugin) == files(written)


def test_its_own_tests_pass(plugin_environment):
    done = plugin_environment.test("pi-model")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_bench_trains_it_on_phantoms_and_it_has_its_row(plugin_environment, tmp_path):
    done = plugin_environment.semisam(
        *("bench", "--method", "pi-model", "--labels", "2", "--sam", "none"),
        *("--iterations", "2", "--patch", "16x16x16", "--stride", "16x16x16"),
        *(*TINY_NET, "--set", "phantom.size=32", "--set", "phantom.cases=3"),
        *("--set", "phantom.test_cases=1", "--set", "pi-model.noise=0.2"),
        *("--out", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = pd.read_csv(tmp_path / "out" / "table.csv").to_dict("records")
    assert (row["method"], row["labeled"], row["unlabeled"], row["runs"]) == ("pi-model", 2, 1, 1)
    assert 0 <= row["dice"] <= 100
    assert "pi-model.noise=0.2" in row["departures"]
