"""The table in every format; the paper's rows only where they may stand."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from click.testing import CliRunner

from semisam.bench import tables
from semisam.cli.main import main
from semisam.config import make_settings


def _run(folder, sam, dice, *, dataset="la", **settings):
    """Write what a finished run leaves."""
    made = make_settings({"method": "mt", "labels": 1, "sam": sam, "dataset": dataset, **settings})
    metrics = {m: 1.5 for m in ("asd_voxel", "hd95_voxel", "hd95_mm", "asd_mm")}
    result = {
        "settings": made.model_dump(mode="json"),
        "options": {"method": {}, "semisam": {}},
        "run": folder.name,
        "data": {"dataset": dataset, "labeled": 1, "unlabeled": 79, "labeled_cases": ["a"]},
        "metrics": {**metrics, "dice": dice, "jaccard": dice / 2, "empty_predictions": 0},
        "training": {},
        "cost": {"train_seconds": 1.0, "peak_memory_gib": 1.0},
        "versions": {},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    cases = [
        {"case": str(i), "class": "atrium", "dice": dice + i / 100, "jaccard": dice / 2}
        | {"asd_voxel": 1.5, "hd95_voxel": 1.5}
        for i in (-1, 0, 1)
    ]
    pd.DataFrame(cases).to_csv(folder / "cases.csv", index=False)


@pytest.fixture
def bench(tmp_path):
    def make(**settings):
        _run(tmp_path / "runs" / "one", "none", 0.3, **settings)
        _run(tmp_path / "runs" / "two", "geodesic", 0.4, **settings)
        return tmp_path

    return make


def _table(folder, *arguments):
    result = CliRunner().invoke(main, ["table", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_papers_rows_stand_beside_rows_of_its_protocol(bench):
    folder = bench(protocol="paper")
    frame = pd.read_csv(io.StringIO(_table(folder, "--format", "csv")), keep_default_na=False)
    paper = frame[frame["protocol"] == tables.PAPER]
    assert paper[["method", "sam", "labeled", "dice"]].to_numpy().tolist() == [
        ["mt", "none", 1, 30.6],
        ["mt", "sam-med3d", 1, 41.38],
    ]
    assert len(frame) == 4 and (frame["protocol"] == "paper").sum() == 2


def test_they_can_be_left_out(bench):
    frame = pd.read_csv(
        io.StringIO(_table(bench(protocol="paper"), "--format", "csv", "--no-paper"))
    )
    assert len(frame) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"patch": (64, 64, 48), "protocol": "paper"},
            "every row here departs from the paper's protocol",
        ),
        ({"protocol": "default"}, "departs from the paper's protocol"),
        ({"protocol": "published"}, "departs from the paper's protocol"),
        ({"dataset": "phantom"}, "these are of phantom"),
    ],
)
def test_they_never_stand_beside_another_protocol_or_other_data(bench, settings, said):
    folder = bench(**settings)
    output = " ".join(_table(folder).split())
    assert said in output and "Table II]" not in output
    frame = pd.read_csv(io.StringIO(_table(folder, "--format", "csv")))
    assert len(frame) == 2


def test_every_format_holds_the_same_figures(bench):
    folder = bench(protocol="paper")
    for kind in ("terminal", "md", "latex", "html"):
        text = _table(folder, "--format", kind)
        for figure in ("30.00", "40.00", "+10.00", "41.38"):
            assert figure in text, (kind, figure)
    assert _table(folder, "--format", "md").startswith("| Method")
    assert r"\begin{tabular}" in _table(folder, "--format", "latex")
    html = _table(folder, "--format", "html")
    assert "<table" in html and "<script" not in html


def test_written_beside_and_renamed(bench, tmp_path):
    folder, out = bench(), tmp_path / "new" / "table.md"
    result = CliRunner().invoke(main, ["table", str(folder), "--format", "md", "-o", str(out)])
    assert result.exit_code == 0 and out.read_text().startswith("| Method")
    assert [p.name for p in out.parent.iterdir()] == ["table.md"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "at least one finished run is required, got nowhere"),
        ([".", "-o", "x.md"], "-o needs --format"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["table", *arguments])
    assert result.exit_code != 0 and said in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_the_reference_is_the_papers_table(shared):
    want = pd.read_csv(shared / "reference" / "paper_tables.csv")
    want = want[want["table"] == "II"].reset_index(drop=True)
    from importlib import resources

    ours = pd.read_csv(resources.files("semisam.bench") / "paper_table_2.csv")
    assert ours["dice"].tolist() == want["dice_pct"].tolist()
    assert ours["hd95_voxel"].tolist() == want["hd95_voxel"].tolist()
    assert ours["method"].tolist() == want["method"].tolist()
