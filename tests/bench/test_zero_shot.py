"""Promptable models alone: their scores by clicks from the truth, and the tables."""

from __future__ import annotations

import pandas as pd
import pytest
from click.testing import CliRunner

from semisam.backends.geodesic import Geodesic
from semisam.bench import zero_shot
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.phantom import Phantom
from semisam.data.loading.store import VolumeStore


def test_the_table_has_a_row_per_number_of_clicks_and_says_who_made_them(tmp_path):
    command = ["zero-shot", "--points", "3,1", "--seeds", "0,1", "--cases", "2"]
    options = ["--set", "phantom.size=32", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*command, "--sam", "geodesic", *options])
    assert result.exit_code == 0, result.output
    again = CliRunner().invoke(main, [*command, *options])
    assert again.exit_code == 2 and "without the table of an earlier call" in again.stderr
    assert "clicks simulated from the truth of the test cases" in result.output
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["points"].tolist() == [1, 3]
    assert (table["clicks"] == "published").all()
    assert (table["prompts"] == zero_shot.NOTE).all() and (table["source"] == "measured").all()
    cases = pd.read_csv(tmp_path / "out" / "cases.csv")
    assert len(cases) == 2 * 2 * 2
    want = 100 * cases[cases.points == 3].groupby("case").dice.mean().mean()
    assert table["dice"][1] == pytest.approx(want, rel=1e-4)


def test_models_and_cases_are_opened_as_in_the_paper():
    """Every slice of the target has clicks of its own, and an option names a known plugin."""
    options = {"phantom": {"size": "32"}, "geodesic": {"stride": "1"}}
    opened = zero_shot.open_zero_shot(["geodesic"], options=options, cases=2)
    assert opened.store.test == ("test_000", "test_001") and opened.by_slice == []
    assert opened.backends["geodesic"].stride == 1
    opened.backends["geodesic"].slice_axis = -1
    assert opened.by_slice == ["geodesic"]
    flat = zero_shot.open_zero_shot(["geodesic"], options={"phantom": {"ndim": "2"}})
    flat.backends["geodesic"].slice_axis = -1
    assert flat.by_slice == []  # of a picture there is one slice


def test_without_a_test_case_it_is_one_sentence():
    dataset = Phantom(cases=1, test_cases=0, size=32)
    store = VolumeStore(dataset, labeled=[], unlabeled=[], test=[])
    with pytest.raises(InputError, match="the test cases must be at least one"):
        zero_shot.run({"geodesic": Geodesic()}, store, [1], [0])


def test_the_same_seed_gives_the_same_clicks():
    frames = []
    for _ in range(2):
        dataset = Phantom(cases=1, test_cases=2, size=32)
        store = VolumeStore(dataset, labeled=[], unlabeled=[], test=dataset.split().test)
        frames.append(zero_shot.run({"geodesic": Geodesic()}, store, [1, 2], [0]))
    same = [c for c in frames[0].columns if "seconds" not in c]
    pd.testing.assert_frame_equal(frames[0][same], frames[1][same])


def test_on_the_left_atrium_the_papers_rows_stand_beside_as_the_papers(tiny_la, tmp_path):
    command = ["zero-shot", "--data", str(tiny_la), "--points", "1", "--sam", "geodesic"]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "out" / "table.csv", dtype={"points": str})
    paper = table[table.source != "measured"]
    assert paper["points"].tolist() == ["N", "2N", "5N", "10N", "1", "2", "5", "10"]
    assert paper.source.str.contains("Table I").all() and "(paper" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--points", "0"], "--points must be at least 1, got 0"),
        (["--set", "mt.ema_decay=0.9"], "--set must name a backend or the dataset, got mt"),
        (["--sam", "geodesik"], "geodesic"),
    ],
)
def test_bad_input_is_one_sentence(arguments, said):
    result = CliRunner().invoke(main, ["zero-shot", *arguments])
    assert result.exit_code != 0 and said in result.output and "Traceback" not in result.output
