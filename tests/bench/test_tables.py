"""The table in every format; the paper's rows only where they may stand."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from semisam.bench import formats, statistics, tables
from semisam.bench.papers import cited_by, papers, papers_of
from semisam.bench.sections import PAPER, method_name, sections
from semisam.cli import display
from semisam.cli.main import main
from semisam.plugins import registry
from semisam.run.resolve import make_settings


def _run(folder, sam, dice, *, dataset="la", cases=3, **settings):
    """Write what a finished run leaves."""
    given = {"method": "mt", "labels": 1, "sam": sam, "dataset": dataset, "protocol": "paper"}
    made = make_settings({**given, **settings})
    metrics = {m: 1.5 for m in ("asd_voxel", "hd95_voxel", "hd95_mm", "asd_mm")}
    result = {
        "settings": made.model_dump(mode="json"),
        "run": folder.name,
        "data": {"dataset": dataset, "labeled": 1, "unlabeled": 79, "labeled_cases": ["a"]}
        | {"test": cases},
        "metrics": {**metrics, "dice": dice, "jaccard": dice / 2, "empty_predictions": 0},
        "training": {},
        "cost": {"train_seconds": 1.0, "peak_memory_gib": 1.0},
        "versions": {},
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    scores = [
        {"case": str(i), "class": "atrium", "dice": dice + i / 100, "jaccard": dice / 2}
        | {"asd_voxel": 1.5, "hd95_voxel": 1.5}
        for i in np.linspace(-1, 1, cases)
    ]
    pd.DataFrame(scores).to_csv(folder / "cases.csv", index=False)


@pytest.fixture
def bench(tmp_path):
    def make(**settings):
        _run(tmp_path / "runs" / "one", "none", 0.3, **{"cases": 20, **settings})
        _run(tmp_path / "runs" / "two", "geodesic", 0.4, **{"cases": 20, **settings})
        return tmp_path

    return make


def _table(folder, *arguments):
    result = CliRunner().invoke(main, ["table", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_papers_rows_stand_beside_rows_of_its_protocol(bench):
    folder = bench(protocol="paper")
    frame = pd.read_csv(io.StringIO(_table(folder, "--format", "csv")), keep_default_na=False)
    paper = frame[frame["protocol"] == PAPER]
    assert paper[["method", "sam", "labeled", "dice"]].to_numpy().tolist() == [
        ["mt", "none", 1, 30.6],
        ["mt", "sam-med3d", 1, 41.38],
    ]
    assert len(frame) == 4 and (frame["protocol"] == "paper").sum() == 2


def test_scores_of_a_class_that_is_rightly_nowhere_are_counted(bench):
    folder = bench()
    sentence = "Up to 3 scores of a row are of a class that neither mask of a case holds"
    assert sentence not in " ".join(_table(folder).split())
    path = folder / "runs" / "two" / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["rightly_empty"] = 3
    path.write_text(json.dumps(result))
    assert sentence in " ".join(_table(folder).split())


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
        ({"cases": 19}, "they have 80 scans for training and 20 for the test"),
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
    result = CliRunner().invoke(main, ["table", str(folder), "-o", str(out)])
    assert result.exit_code == 0 and out.read_text().startswith("| Method")
    assert [p.name for p in out.parent.iterdir()] == ["table.md"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "the folder of runs must exist, got nowhere"),
        (["."], "must hold at least one finished run, got ."),
        ([".", "-o", "x.doc"], "-o must end with one of .csv, .md, .tex, .html, .xlsx, got x.doc"),
        ([".", "-o", "x", "--format", "terminal"], "-o must come with a format for files"),
        ([".", "--format", "xlsx"], "--format xlsx must come with -o FILE.xlsx"),
        ([".", "--format", "md", "--columns", "dize"], "got dize (did you mean dice?)"),
        ([".", "--format", "md", "--caption", "x"], "--caption must come with the format latex"),
        ([".", "--format", "csv", "--cite"], "--cite must come with the format latex, got csv"),
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


def test_a_gain_is_over_runs_that_differ_in_the_branch_alone(tmp_path):
    def gain(name, **bare):
        folder = tmp_path / name
        _run(folder / "runs" / "one", "none", 0.3, **bare)
        _run(folder / "runs" / "two", "geodesic", 0.4)
        table = tables.load(folder).table
        return table.loc[table["sam"] == "geodesic", "gain_dice"].item()

    assert gain("same") == pytest.approx(10)
    others = {
        "iterations": 100,
        "patch": (64, 64, 64),
        "method_options": {"ema_decay": 0.9},
        "network_options": {"filters": 8},
        "dataset_options": {"spacing": 2.0},
        "components": "largest",
        "seed": 1,
    }
    for name, value in others.items():
        assert math.isnan(gain(name, **{name: value})), name
    # Where the run was made and what was kept of it beside the result do not count.
    assert gain("place", device="cuda", save_predictions=True) == pytest.approx(10)


def test_other_data_of_the_same_name_are_another_row_and_no_partner(tmp_path):
    for name, sam, data in (("a", "none", "x"), ("b", "none", "y"), ("c", "geodesic", "y")):
        run = tmp_path / "runs" / name
        _run(run, sam, 0.3)
        result = json.loads((run / "result.json").read_text())
        result["data"] |= {"hash": data * 64, "test_hash": data * 64}
        (run / "result.json").write_text(json.dumps(result))
    table = tables.load(tmp_path).table
    assert table[["data", "sam", "runs"]].to_numpy().tolist() == [
        ["x" * 8, "none", 1],
        ["y" * 8, "none", 1],
        ["y" * 8, "geodesic", 1],
    ]
    assert table["gain_dice"].notna().tolist() == [False, False, True]
    assert [len(section.rows) for section in sections(table)] == [1, 2]


def test_other_options_of_a_promptable_model_are_another_row(tmp_path):
    for name, options in (("a", {}), ("b", {"radius": 7.0})):
        _run(tmp_path / "runs" / name, "geodesic", 0.3, sam_options=options)
    table = tables.load(tmp_path).table
    assert table["choices"].tolist() == ["", "geodesic.radius=7.0"]
    assert [method_name(row) for row in table.to_dict("records")] == [
        "mt + SemiSAM (geodesic)",
        "mt + SemiSAM (geodesic) [geodesic.radius=7.0]",
    ]
    assert len(sections(table)) == 1


@pytest.mark.parametrize("kind", ["terminal", "md", "latex", "html"])
def test_every_format_sets_protocols_apart_and_says_what_departs(tmp_path, kind):
    _run(tmp_path / "runs" / "one", "none", 0.3, dataset="phantom")
    _run(tmp_path / "runs" / "two", "none", 0.4, dataset="phantom", iterations=7)
    _run(tmp_path / "runs" / "three", "geodesic", 0.5, dataset="phantom", iterations=7)
    output = " ".join(_table(tmp_path, "--format", kind).split())
    starts = {"terminal": "Comparison", "md": "| Method", "latex": r"\begin{tabular}"}
    assert output.count(starts.get(kind, "<table")) == 2
    assert "Protocol paper, departing from it in iterations=7" in output
    assert "Wilcoxon, Holm over 1 comparison" in output
    assert (
        "With 3 cases or patients the least p after this correction is 0.25, so no gain can"
        in output
    )
    if kind in ("md", "html"):
        assert "p (Holm)" in output and "0.250" in output
        assert "SD of Dice over cases" in output


def test_a_name_cannot_end_a_cell_or_begin_a_tag():
    rows = pd.DataFrame({"Method": ["a|b <script>\n| c"], "x|y": ["1"]})
    text = formats._safe(rows).to_markdown(index=False, disable_numparse=True)
    lines = text.splitlines()
    assert len(lines) == 3 and "<script" not in text
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines)


def _lines(text, start=""):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_latex_is_a_float_with_groups_of_equal_labels(tmp_path):
    for n in (1, 2):
        for sam, dice in (("none", 0.3), ("geodesic", 0.4)):
            _run(tmp_path / "runs" / f"{sam}{n}", sam, dice * n, labels=n)
        for name in ("none", "geodesic"):
            path = tmp_path / "runs" / f"{name}{n}" / "result.json"
            result = json.loads(path.read_text())
            result["data"] |= {"labeled": n, "unlabeled": 80 - n}
            path.write_text(json.dumps(result))
    text = _table(tmp_path, "--format", "latex", "--no-paper", "--label", "tab:la")
    form = _lines(text, r"\begin{tabular}{")[0].removeprefix(r"\begin{tabular}{l")
    assert form.startswith(
        "S[table-format=2.2]" * 2 + "S[table-format=1.2]" * 2 + r"S[table-format=+2.2]@{\,}l}"
    )
    assert text.count(r"\midrule") == 2 and text.count(r"\label{tab:la}") == 1
    for n in (1, 2):
        assert rf"\multicolumn{{7}}{{l}}{{\emph{{{n} labeled, {80 - n} unlabeled}}}} \\" in text
    rows = _lines(text, "mt")
    assert len(rows) == 4 and all(row.count(" & ") == 6 for row in rows)
    assert rows[0].startswith("mt & 30.00 & 15.00 &")
    assert rows[1].startswith(r"mt + SemiSAM (geodesic) & \bfseries 40.00 & \bfseries 20.00 &")
    assert rows[1].endswith(r"& +10.00 & $[+10.0, +10.0]$ \\")
    assert rows[3].startswith(r"mt + SemiSAM (geodesic) & \bfseries 80.00 &")


def test_columns_caption_and_citations_of_latex(bench):
    wishes = ("--columns", "runs,gain,dice,p", "--caption", "50 % of_it", "--cite")
    text = _table(bench(protocol="paper"), "--format", "latex", *wishes)
    assert r"\caption{50 \% of\_it}" in text and r"\label" not in text
    assert r"Method & {Runs} & {Gain [Dice]} &  & {Dice [\%]} & p (Holm) \\" in text
    bare, branch, _, paper = _lines(text, "mt")
    assert bare == r"mt~\cite{tarvainen2017mean,yu2019uncertainty} & 1 &  &  & 30.00 &  \\"
    assert "zhang2024semisam,criminisi2008geos" in branch
    assert r"\bfseries" in branch and r"\bfseries" not in paper and "wang2023sammed3d" in paper
    assert "Protocol paper." in text


def test_a_table_that_cites_brings_its_bibliography(bench, tmp_path):
    result = CliRunner().invoke(
        main, ["table", str(bench()), "--cite", "-o", str(tmp_path / "t.tex")]
    )
    assert result.exit_code == 0 and "t.bib" in result.output
    cited = (tmp_path / "t.bib").read_text()
    assert "@inproceedings{tarvainen2017mean," in cited and "vu2019advent" not in cited


def test_every_paper_is_cited_by_a_plugin_or_a_test_of_significance():
    cited = {paper.key for paper in papers_of("framework", "semisam")}
    cited |= {paper.key for paper in cited_by(statistics)}
    assert papers_of("framework", "not-installed") == []
    for kind in registry.GROUPS:
        for name, plugin in registry.list_plugins(kind).items():
            if plugin.builtin:
                cited |= {paper.key for paper in cited_by(registry.load(kind, name))}
    cited |= {paper.key for paper in papers_of("backend", "synthsam+geodesic")}
    assert cited == {paper.key for paper in papers()}
    for paper in papers():
        assert {"title", "author", "year"} <= paper.fields.keys()
        assert paper.text.count("{") == paper.text.count("}")


def test_a_control_is_not_the_best_row(tmp_path):
    for name, sam, control, dice in (
        ("a", "none", None, 0.2),
        ("b", "geodesic", None, 0.3),
        ("c", "geodesic", "oracle", 0.9),
    ):
        _run(tmp_path / "runs" / name, sam, dice, sam_control=control)
    rows = _lines(_table(tmp_path, "--format", "latex", "--no-paper", "--columns", "dice"), "mt")
    assert ["bfseries" in row for row in rows] == [False, True, False]


def test_a_class_with_the_name_of_a_column_has_its_own_best_row(bench):
    """The best was looked up by the names of columns, so the lowest Dice of ``asd`` was bold."""
    folder = bench()
    for name, dice in (("one", 0.2), ("two", 0.6)):
        path = folder / "runs" / name / "result.json"
        result = json.loads(path.read_text())
        result["metrics"]["dice:asd"] = dice
        path.write_text(json.dumps(result))
    chosen = ("--no-paper", "--columns", "asd,classes")
    rows = _lines(_table(folder, "--format", "latex", *chosen), "mt")
    assert [row.split(" & ")[-1] for row in rows] == [r"20.00 \\", r"\bfseries 60.00 \\"]


def test_runs_that_are_in_no_row_are_named(tmp_path):
    _run(tmp_path / "runs" / "done", "none", 0.3)
    for name in ("stopped", "failed"):
        (tmp_path / "runs" / name).mkdir()
        text = make_settings({"labels": 1}).model_dump_json()
        (tmp_path / "runs" / name / "settings.json").write_text(text)
    (tmp_path / "runs" / "stopped" / "train.jsonl").touch()
    (tmp_path / "runs" / "failed" / "error.json").write_text('{"error": "the loss is nan"}')
    result = CliRunner().invoke(main, ["table", str(tmp_path), "--format", "csv"])
    assert result.exit_code == 0 and "Not in the table" not in result.stdout
    assert result.stderr.splitlines() == [
        "Not in the table: failed, failed: the loss is nan",
        "Not in the table: stopped, stopped: 0/1000",
    ]


def test_several_folders_share_a_table(tmp_path):
    _run(tmp_path / "one" / "runs" / "a", "none", 0.3)
    _run(tmp_path / "two" / "runs" / "b", "geodesic", 0.4)
    result = CliRunner().invoke(
        main,
        ["table", *(str(tmp_path / n) for n in ("one", "two")), "--format", "csv", "--no-paper"],
    )
    frame = pd.read_csv(io.StringIO(result.output))
    assert frame["sam"].fillna("none").tolist() == ["none", "geodesic"]
    assert frame["gain_dice"].iloc[1] == pytest.approx(10)
    (tmp_path / "three").mkdir()
    result = CliRunner().invoke(main, ["table", str(tmp_path / "one"), str(tmp_path / "three")])
    assert result.exit_code == 2 and "three" in result.output


def test_numbers_are_right_aligned_and_columns_chosen(bench):
    folder = bench()
    chosen = ("--columns", "method,hd95,dice")
    first, rule, *_ = _table(folder, "--format", "md", *chosen).splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        "Method", "95HD [voxel]", "Dice [%]",
    ]  # fmt: skip
    assert [cell[-1] for cell in rule.strip("|").split("|")] == ["-", ":", ":"]
    html = _table(folder, "--format", "html", *chosen)
    assert '<td style="text-align: right">30.00</td>' in html
    assert '<td style="text-align: left">mt</td>' in html


def test_columns_of_numbers_and_of_the_terminal_are_chosen_too(bench):
    folder = bench()
    chosen = ("--columns", "method,gain,dice")
    frame = pd.read_csv(io.StringIO(_table(folder, "--format", "csv", *chosen)))
    assert list(frame.columns) == [
        "protocol", "method", "sam", "sam_control",
        "gain_dice", "gain_low", "gain_high", "dice", "dice_sd",
    ]  # fmt: skip
    marked = frame["protocol"] == PAPER
    assert marked.any() and not marked.all(), "rows of the paper are marked"
    head = next(line for line in _table(folder, *chosen).splitlines() if "Method" in line)
    assert head.split() == ["Method", "[Dice]", "[%]"]


@pytest.mark.parametrize(("width", "shown"), [(60, False), (80, True)])
def test_a_narrow_terminal_shows_every_method_and_fewer_columns(bench, monkeypatch, width, shown):
    monkeypatch.setattr(display.console, "_width", width)
    lines = _table(bench()).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "Method" in text and "Empty" in text and "30.00" in text
    assert ("95HD" in text) == shown and ("this terminal is narrow" in text) != shown


def test_ranks_that_cannot_be_are_explained(tmp_path):
    _run(tmp_path / "runs" / "one", "none", 0.3)
    assert "No ranks: they need two rows" in " ".join(_table(tmp_path, "--rank").split())


def test_an_output_that_is_a_folder_is_one_sentence(bench, tmp_path):
    (tmp_path / "t.md").mkdir()
    result = CliRunner().invoke(main, ["table", str(bench()), "-o", str(tmp_path / "t.md")])
    assert result.exit_code == 2 and "-o must be a file, got the folder" in result.output


def test_ranks_and_how_certain_they_are(bench):
    folder = bench()
    frame = pd.read_csv(io.StringIO(_table(folder, "--format", "csv", "--no-paper", "--rank")))
    # Of three cases each, whose Dice are apart by a hundredth, the second run is better by a tenth.
    assert frame[["rank", "rank_low", "rank_high"]].to_numpy().tolist() == [[2] * 3, [1] * 3]
    assert frame["rank_first"].tolist() == [0.0, 1.0]
    for kind in ("terminal", "md", "latex", "html"):
        text = _table(folder, "--format", kind, "--rank")
        assert "2 (2..2)" in text and "Rank" in text, kind
    assert "2 (2..2)" in _table(folder, "--format", "md", "--rank", "--columns", "method,dice")
    assert "first in 100 % of the resamples" in " ".join(_table(folder, "--rank").split())
    assert "Rank" not in _table(folder, "--format", "md")


def test_a_workbook_holds_numbers(bench, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    out = tmp_path / "t.xlsx"
    result = CliRunner().invoke(main, ["table", str(bench(protocol="paper")), "-o", str(out)])
    assert result.exit_code == 0, result.output
    head, *rows = openpyxl.load_workbook(out).active.iter_rows(values_only=True)
    assert [row[head.index("dice")] for row in rows] == pytest.approx([30, 40, 30.6, 41.38])


def test_a_workbook_without_its_package_is_one_sentence(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["table", str(bench()), "-o", str(tmp_path / "t.xlsx")])
    assert result.exit_code == 2 and "pip install 'semisam[excel]'" in result.output
    assert not (tmp_path / "t.xlsx").exists()


def test_a_folder_that_is_given_twice_counts_once(bench, tmp_path):
    folder = bench()
    (tmp_path / "link").symlink_to(folder)
    once = _table(folder, "--format", "csv", "--no-paper")
    for other in (folder / "runs", tmp_path / "link"):
        told = CliRunner().invoke(
            main, ["table", str(folder), str(other), "--format", "csv", "--no-paper"]
        )
        assert told.stdout == once and told.stderr == ""
