"""The page of a bench folder: the table's figures, nothing from outside, whatever lies there."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import time
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from click.testing import CliRunner
from scan_files import scan, write
from tiny_runs import TINY_NET, settings_of, write_scores

from semisam.bench.grid import Axes
from semisam.bench.report import facts, masks, page, scores
from semisam.bench.report.choice import choose
from semisam.bench.report.curves import smoothed, window_of
from semisam.bench.report.masks import CaseMask, MaskSource, ScoredCase
from semisam.bench.report.methods import methods
from semisam.bench.report.runs import read_bench, read_log
from semisam.bench.report.slices import _averaged, _case, _Small, _window
from semisam.bench.report.style import looks
from semisam.bench.running import tabulate
from semisam.bench.study import Grid, write_study
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.data.datasets.dataset import Image
from semisam.data.images.files import Geometry
from semisam.run.execute import execute
from semisam.run.folder import list_runs
from semisam.run.resolve import make_settings
from semisam.training.checkpoint import save_tensors


def test_the_bar_of_a_single_run_draws_patients_with_all_their_scans():
    cases = pd.DataFrame({"run": "one", "case": [f"{n}" for n in range(40)]})
    cases["patient"] = [f"p{n // 10}" for n in range(40)]
    cases["dice"] = [(0.6, 0.7, 0.8, 0.9)[n // 10] for n in range(40)]
    row = SimpleNamespace(figures={"dice_sd": np.nan}, runs=pd.DataFrame({"run": ["one"]}))
    below, above, kind = scores._spread(SimpleNamespace(cases=cases), row)
    cases["patient"] = cases["case"]
    narrow, _, _ = scores._spread(SimpleNamespace(cases=cases), row)
    assert kind == "cases" and below > 2 * narrow and above > 2 * narrow


HOSTILE = "<script>alert('$x_{')</script>"
CITED = "https://arxiv.org/abs/2312.06316"
REFERENCES = ("https://arxiv.org/abs/", "https://doi.org/")


def _run(
    folder,
    sam="none",
    dice=0.3,
    *,
    dataset="la",
    cases=3,
    log=0,
    method="mt",
    named=None,
    **settings,
):
    """Write what a finished run leaves, of a method that has the name ``named`` afterwards."""
    given = {"method": method, "labels": 1, "sam": sam, "dataset": dataset, **settings}
    made = make_settings(given)
    metrics = {m: 1.5 for m in ("asd_voxel", "hd95_voxel", "hd95_mm", "asd_mm")}
    labels = made.labels
    result = {
        "settings": {**made.model_dump(mode="json"), "method": named or method},
        "run": folder.name,
        "data": {"dataset": dataset, "labeled": labels, "unlabeled": 80 - labels, "note": ""}
        | {"labeled_cases": ["a"], "test": cases, "hash": "ab" * 32, "split_hash": "cd" * 8},
        "metrics": {**metrics, "dice": dice, "jaccard": dice / 2, "empty_predictions": 0},
        "training": {},
        "cost": {"train_seconds": 1.0, "peak_memory_gib": 1.0},
        "versions": {"torch": "2"},
    }
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(result["settings"]))
    (folder / "result.json").write_text(json.dumps(result))
    rows = [
        {"case": f"case{i}", "class": "atrium", "jaccard": dice / 2}
        | {"dice": dice + (i - (cases - 1) / 2) / 100, "asd_voxel": 1.5, "hd95_voxel": 1.5}
        for i in range(cases)
    ]
    pd.DataFrame(rows).to_csv(folder / "cases.csv", index=False)
    if log:
        lines = [json.dumps({"step": i, "loss": 1 / (i + 1), "lr": 0.1}) for i in range(log)]
        (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _report(folder, *arguments):
    out = folder / "page"
    result = CliRunner().invoke(main, ["report", str(folder), "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    return (out / "report.html").read_text(encoding="utf-8")


def _text(html):
    """Return what a reader sees, in single spaces."""

    class Reader(HTMLParser):
        parts: list[str] = []  # noqa: RUF012

        def handle_data(self, data):
            self.parts.append(data)

    reader = Reader()
    reader.parts = []
    reader.feed(re.sub(r"<(style|script)[ >].*?</\1>", "", html, flags=re.DOTALL))
    return " ".join(" ".join(reader.parts).split())


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two runs really trained, and their report."""
    folder = tmp_path_factory.mktemp("bench")
    common = {
        "dataset": "phantom",
        "dataset_options": {"cases": 4, "test_cases": 3, "size": 32},
        "network": "vnet",
        "network_options": {"filters": 2},
        **{"labels": 2, "iterations": 6, "patch": (16, 16, 16), "stride": (16, 16, 16)},
        "precision": "fp32",
    }
    bare = settings_of(**common)
    wrapped = settings_of(**common, sam="geodesic", save_predictions=True)
    write_study(folder, [Grid(Axes(["mt"], ["none", "geodesic"], [2]), {"iterations": 6}, {})])
    execute(bare, folder / "runs" / "bare")
    execute(wrapped, folder / "runs" / "wrapped")
    return folder, _report(folder, "--cases", "2")


def _cells(html):
    """Return the rows of the comparison table, a list of texts each."""
    table = re.search(r'<table class="comparison">(.*?)</table>', html, re.DOTALL)[1]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)[1:]
    cells = r"<t[dh] [^>]*>(.*?)</t[dh]>"
    return [[_text(c) for c in re.findall(cells, row, re.DOTALL)] for row in rows]


def _data(html, name):
    """Return the data of a block for the script."""
    return json.loads(
        re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html)[1]
    )


def test_departures_are_a_list_and_no_size():
    assert facts._shown(["iterations=600", "a=1"]) == "iterations=600, a=1"
    assert facts._shown([64, 64, 48]) == "64x64x48"


def test_the_headline_leaves_out_controls_and_what_trains_nothing():
    rows = [("mt", "", 1.0), ("theirs", "", 2.0), ("mt", "oracle", 30), ("center-ball", "", 70)]
    table = pd.DataFrame(rows, columns=["method", "sam_control", "gain_dice"])
    table = table.assign(gain_p=0.2, gain_p_holm=0.5, gain_cases=9, dice=80.0)
    table = table.assign(data="", labeled=1, over_best=float("nan"))
    told = page._findings(SimpleNamespace(table=table))[0]
    assert "+1.00 to +2.00 points in 2 comparisons" in told


@pytest.mark.slow
def test_its_figures_are_the_tables(real):
    folder, html = real
    out = CliRunner().invoke(main, ["table", str(folder), "--format", "csv"])
    table = pd.read_csv(io.StringIO(out.output), keep_default_na=False, na_values=[""])
    cells = _cells(html)
    assert len(cells) == len(table) == 2
    for got, row in zip(cells, table.to_dict("records"), strict=True):
        assert got[1] == f"{row['labeled']}/{row['unlabeled']}"
        metrics = ("dice", "jaccard", "asd_voxel", "hd95_voxel")
        for cell, metric in zip([got[2], *got[5:8]], metrics, strict=True):
            assert cell == f"{row[metric]:.2f} cases ± {row[f'{metric}_sd_cases']:.2f}"
        assert got[8:] == [str(row["empty"]), str(row["runs"])]
    gain = table.iloc[1]
    assert cells[0][3] == "" and cells[1][0] == "mt + SemiSAM (geodesic)"
    assert cells[1][3].startswith(f"{gain['gain_dice']:+.2f}")
    assert cells[1][3].endswith(f"{gain['gain_low']:+.1f}..{gain['gain_high']:+.1f}")
    assert cells[1][4] == f"{gain['gain_p_holm']:.3f}"
    against = f"Its best row against the best row without it: {gain['over_best']:+.2f} ("
    assert against in _text(html) and f"over mt at {gain['labeled']} labeled." in _text(html)


def test_it_asks_nothing_of_the_network(real):
    _, html = real
    assert "@import" not in html and "<link" not in html
    assert not re.findall(r'src="([^"]*)"', html) and not re.search(r"url\((?!#)", html)
    links = re.findall(r'href="([^"]*)"', html)
    papers = {target for target in links if not target.startswith(("#", "data:"))}
    assert CITED in papers and all(target.startswith(REFERENCES) for target in papers)


def test_only_the_script_of_the_page_may_run(real):
    _, html = real
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert not re.search(r"<[^>]* on\w+=", html)


def test_tables_texts_and_numbers_of_figures_can_be_saved(real):
    folder, html = real
    files = _data(html, "files")
    out = CliRunner().invoke(main, ["table", str(folder), "--format", "csv"])
    assert files["table.csv"] == out.output and r"\begin{table}" in files["table.tex"]
    assert files["study.toml"] == (folder / "study.toml").read_text(encoding="utf-8")
    for name in re.findall(r'data-(?:save|copy)="([^"]*)"', html):
        assert files.pop(name, "saved twice")
    gains = pd.read_csv(folder / "page" / "figures" / "gains-1.csv", dtype={"case": str})
    scores = _scores(folder, "wrapped") - _scores(folder, "bare")
    shown = gains.dropna(subset="case").set_index("case")["gain_dice"]
    assert shown.to_dict() == pytest.approx((100 * scores).to_dict(), abs=1e-3)
    assert gains["gain_dice"].iloc[0] == pytest.approx(100 * scores.mean(), abs=1e-3)


def _scores(folder, run):
    return pd.read_csv(folder / "runs" / run / "cases.csv").set_index("case")["dice"]


def test_the_methods_paragraph_cites_what_was_used(real):
    _, html = real
    files = _data(html, "files")
    text = files["methods.txt"]
    assert text.startswith(
        "We compared mt [1, 2] without and with SemiSAM [3], which queried geodesic"
    )
    assert "Settings that it does not prescribe were network=vnet, phantom.cases=4" in text
    assert "6 iterations" in text and "16x16x16 voxels" in text and "The network was vnet" in text
    cited = {
        key
        for keys in re.findall(r"\\cite\{([^}]*)\}", files["methods.tex"])
        for key in keys.split(",")
    }
    entries = re.findall(r"^@\w+\{(\w+),$", files["references.bib"], re.MULTILINE)
    assert cited == set(entries) and {"tarvainen2017mean", "zhang2024semisam", "holm1979"} <= cited
    assert html.count("<li>") == len(entries)


def test_the_methods_paragraph_names_departures_and_choices_of_some_runs(tmp_path):
    _run(tmp_path / "runs" / "a", iterations=5, network="vnet")
    _run(tmp_path / "runs" / "b", iterations=5, lr=0.5, seed=1, test="3-fold", fold=1)
    text = methods(read_bench(tmp_path)).text
    assert "of semisam, except iterations=5, and lr=0.5 in some runs. Settings that" in text
    assert "prescribe were network=vnet, test=3-fold in some runs. " in text


def test_the_slices_hold_the_masks_that_were_scored(real):
    folder, html = real
    data = _data(html, "slices")
    (pair,) = data["pairs"]
    assert pair["title"] == "mt + SemiSAM (geodesic), 2 labeled"
    runs = dict(zip(("bare", "wrapped"), pair["runs"], strict=True))
    assert len(data["cases"]) == 3  # the masks of `wrapped` are saved
    for case in data["cases"]:
        truth = _levels(case, case["truth"])
        scores = _scores(folder, "wrapped")
        for name, run in runs.items():
            if run not in case["masks"]:
                assert name == "bare"  # computed for the pictures only
                continue
            found = case["masks"][run]
            assert found["dice"] == pytest.approx(
                100 * _scores(folder, name)[case["name"]], abs=0.01
            )
            mask = _levels(case, found["png"])
            dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            assert found["dice"] == pytest.approx(100 * dice, abs=0.01)
        assert case["name"] in scores.index and not case["letters"]  # phantoms have no patient
    assert sum(runs["bare"] in case["masks"] for case in data["cases"]) == 2


def test_the_slices_may_hold_every_test_case(real, tmp_path):
    folder = shutil.copytree(real[0], tmp_path / "bench")
    html = _report(folder, "--all-cases", "--cases", "1")
    data = _data(html, "slices")
    runs = data["pairs"][0]["runs"]
    assert len(data["cases"]) == 3
    for case in data["cases"]:
        for name, run in zip(("bare", "wrapped"), runs, strict=True):
            scored = 100 * _scores(folder, name)[case["name"]]
            assert case["masks"][run]["dice"] == pytest.approx(scored, abs=0.01)
    arguments = ["report", str(folder), "--all-cases", "--no-predict"]
    wrong = CliRunner().invoke(main, arguments)
    assert wrong.exit_code == 2 and "must come without --no-predict" in wrong.output


def test_gains_of_controls_have_a_figure_of_their_own(tmp_path):
    _run(tmp_path / "runs" / "one", dice=0.5)
    _run(tmp_path / "runs" / "two", sam="geodesic", dice=0.52)
    _run(tmp_path / "runs" / "three", sam="geodesic", sam_control="oracle", dice=0.9)
    html = _report(tmp_path, "--no-predict")
    for name, gained in (("gains-1", 2.0), ("gains-of-controls-1", 40.0)):
        frame = pd.read_csv(tmp_path / "page" / "figures" / f"{name}.csv", dtype={"case": str})
        assert frame["gain_dice"].iloc[0] == pytest.approx(gained)
        assert frame["row"].nunique() == 1 and name in html


def test_the_best_row_is_told_of_each_part_and_of_trainings_only(tmp_path):
    for name, given in {
        "bare": {"dice": 0.5},
        "sam": {"sam": "geodesic", "dice": 0.53},
        "long": {"dice": 0.7, "iterations": 7},
        "long-sam": {"sam": "geodesic", "dice": 0.69, "iterations": 7},
        "ball": {"method": "center-ball", "sam": "geodesic", "dice": 0.8},
    }.items():
        _run(tmp_path / "runs" / name, **given)
    told = sorted(page._findings(read_bench(tmp_path))[1:])
    assert len(told) == 3, "a sentence for each part, and one about the number of test cases"
    assert "(Protocol default): +3.00 (+3.0 to +3.0) over mt at 1 labeled." in told[0]
    assert "iterations=7): -1.00 (-1.0 to -1.0) over mt at 1 labeled." in told[1]
    assert told[2].startswith("With 3 cases or patients")


def test_cases_gain_or_lose_over_pairs_of_runs(tmp_path):
    """The second run without SemiSAM is far worse, and has no partner."""
    _run(tmp_path / "runs" / "one", dice=0.5)
    _run(tmp_path / "runs" / "hard", dice=0.1, seed=1)
    _run(tmp_path / "runs" / "two", sam="geodesic", dice=0.48)
    text = _text(_report(tmp_path, "--no-predict"))
    assert "mt + SemiSAM (geodesic): 0 gained, 3 lost." in text


def test_the_dice_of_a_picture_counts_classes_that_are_nowhere():
    mask = np.array([[0, 1, 1, 1]], np.uint8)
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    assert masks.mean_dice(mask, truth, 2) == pytest.approx(80)
    assert masks.mean_dice(mask, truth, 3) == pytest.approx((80 + 100) / 2)


def test_the_methods_paragraph_names_the_adaptation(tmp_path):
    _run(tmp_path / "runs" / "one", dice=0.5)
    _run(tmp_path / "runs" / "two", sam="synthsam", sam_adapt=300, dice=0.52)
    html = _report(tmp_path, "--no-predict")
    assert "was first adapted to the labeled scans in 300 steps." in _text(html)


def _levels(case, png):
    """Return a mask ``(z, y, x)`` of a case as the page holds it."""
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(png))).convert("L")
    width, height, count = case["size"]
    return (np.asarray(picture) > 0).reshape(count, height, width)


def test_a_large_scan_keeps_the_surroundings_of_its_masks():
    mask = np.zeros((400, 300, 90), np.uint8)
    mask[200:300, 10:20, 40:60] = 2
    small = _Small.of(mask)
    box, step = _window(mask.shape, [small, _Small.of(np.zeros_like(mask))], 16)
    assert [(int(own[0]), int(own[-1])) for own in box] == [(188, 311), (0, 31), (38, 61)]
    assert step == 1 and len(box[2]) == 16
    assert np.array_equal(small.within(box), mask[np.ix_(*box)])
    whole, coarse = _window(mask.shape, [], 100)
    assert [len(own) for own in whole] == [400, 300, 90] and coarse == 3
    assert _averaged(np.full((400, 300, 2), 7, np.uint8), 3).shape == (134, 100, 2)


def test_slices_are_as_a_radiologist_sees_them():
    """The file's axes run to the superior, the right and the posterior."""
    turned = (0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    geometry = Geometry((2.0, 1.0, 3.0), (0.0, 0.0, 0.0), turned)
    truth = np.zeros((3, 6, 4), np.uint8)
    truth[2, 0, 3] = 1  # at the top, on the left, behind
    image = Image(
        np.random.default_rng(0).normal(size=(1, 3, 6, 4)).astype(np.float32), geometry, True
    )
    scored = ScoredCase("one", image, truth)
    mask = CaseMask(2 * truth, "saved", 50.0)
    source = SimpleNamespace(case=lambda *_: scored, mask=lambda *_: mask)
    case, _ = _case(source, "one", [SimpleNamespace(run="r")], 32)
    assert case["letters"] and case["size"] == [6, 4, 3] and case["aspect"] == 3.0
    assert case["numbers"] == [1, 2, 3] and case["levels"] == 2
    for png in (case["truth"], case["masks"]["r"]["png"]):
        assert np.argwhere(_levels(case, png)).tolist() == [[2, 3, 5]]
    shown = PIL.Image.open(io.BytesIO(base64.b64decode(case["scan"])))
    assert shown.format == "WEBP" and shown.size == (6, 12)


def test_figures_can_be_left_out(tmp_path):
    _run(tmp_path / "runs" / "one", log=5)
    html = _report(tmp_path, "--no-figures")
    assert "<svg" not in html and not (tmp_path / "page" / "figures").exists()
    assert len(_cells(html)) == 1


def test_a_watched_page_is_made_again_and_loads_itself_again(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    _run(runs / "one")
    pages = []

    def wait(seconds):
        pages.append((tmp_path / "page" / "report.html").read_text(encoding="utf-8"))
        if len(pages) == 2:
            _run(runs / "two", method="dtc")

    monkeypatch.setattr(time, "sleep", wait)
    last = _report(tmp_path, "--no-figures", "--watch")
    assert [page.count('data-seconds="30"') for page in pages] == [1] * len(pages)
    assert [len(_cells(page)) for page in pages[:3]] == [1, 1, 2]
    assert "data-seconds" not in last and len(_cells(last)) == 2


def test_every_figure_has_its_files(real):
    folder, html = real
    files = {path.name: path for path in (folder / "page" / "figures").iterdir()}
    names = {name.removesuffix(".png") for name in files if name.endswith(".png")}
    kinds = ("png", "pdf", "svg", "csv")
    assert {f"{name}.{kind}" for name in names for kind in kinds} == set(files)
    figures = re.sub(r'<div id="panels">.*?</div>', "", html, flags=re.DOTALL)
    assert figures.count("<figure") == len(names) == figures.count("<figcaption>")
    assert {f"{name}-alt" for name in names} == set(re.findall(r'<title id="([^"]*)"', html))
    for path in files.values():
        assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF", b"<?xm") or path.suffix == ".csv"
    for wanted in ("dice-labels-1", "cases-1-n2", "training-1-n2-sam", "sam-1-n2-sam-weight"):
        assert wanted in names
    assert {"pictures-1-case-1", "pictures-1-case-2"} <= names


def test_the_page_is_one_document(real):
    _, html = real
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]*)"', html)
    assert set(links) <= set(ids)
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert "#1d1d22" not in re.sub(r"<(style|script)[ >].*?</\1>", "", html, flags=re.DOTALL)


def test_pictures_are_of_the_masks_that_were_scored(real):
    folder, html = real
    text = _text(html)
    assert "with the median Dice with SemiSAM" in text  # the rule
    assert "are not the ones that were scored" not in text
    scores = pd.read_csv(folder / "runs" / "wrapped" / "cases.csv").set_index("case")["dice"]
    median = scores.sort_values().index[1]
    assert f"{median} (median Dice with SemiSAM" in text
    assert f"{100 * scores[median]:.1f} % with SemiSAM" in text


def test_it_shows_the_study_that_makes_it_again(real):
    folder, html = real
    text = (folder / "study.toml").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    assert unescape(shown) == text
    result = json.loads((folder / "runs" / "bare" / "result.json").read_text(encoding="utf-8"))
    assert result["versions"]["torch"] in _text(html) and result["data"]["hash"][:16] in html


def test_another_prompter_is_the_rows_own_and_keeps_its_partner(tmp_path):
    _run(tmp_path / "runs" / "a", cases=5)
    _run(tmp_path / "runs" / "b", "geodesic", 0.4, cases=5, prompter="uncertainty-points")
    (part,) = read_bench(tmp_path).parts
    bare, wrapped = part.rows
    assert wrapped.name == "mt + SemiSAM (geodesic) [prompter=uncertainty-points]"
    assert part.rows[wrapped.bare] is bare


def test_without_models_and_without_the_data(real, tmp_path):
    folder, _ = real
    copy = shutil.copytree(folder / "runs", tmp_path / "runs", ignore=lambda *_: ["model.pt"])

    def refused(compute=True):
        bench = read_bench(tmp_path)
        (shown,) = choose(bench, bench.parts[0], 1)
        with pytest.raises(InputError) as caught:
            MaskSource(bench, None, compute=compute).of(shown)
        return str(caught.value)

    assert "must be finished, with model.pt and" in refused()
    assert "--no-predict is set" in refused(compute=False)
    shutil.copy(folder / "runs" / "bare" / "model.pt", copy / "bare")
    saved = copy / "wrapped" / "predictions"
    for path in saved.iterdir():
        path.write_bytes(b"no scan")
    assert ".nii.gz cannot be read: " in refused()
    shutil.rmtree(saved)
    save_tensors({}, copy / "wrapped" / "model.pt")
    assert "must fit its method and network as installed, got others in" in refused()
    for path in copy.glob("*/*.json"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        settings = raw.get("settings", raw)
        if "dataset" in settings:
            settings.update(dataset="la", data=str(tmp_path / "gone"), dataset_options={})
            path.write_text(json.dumps(raw))
    for log in copy.glob("*/train.jsonl"):
        log.unlink()
    text = _text(_report(tmp_path))
    assert "No test case could be shown: the scans are not where the runs read them" in text


def test_hostile_names_are_text(tmp_path):
    name = HOSTILE.replace("/", "")
    for sam, dice in (("none", 0.3), ("geodesic", 0.4)):
        run = _run(tmp_path / "runs" / f"{name}{sam}", sam, dice, named=HOSTILE, log=3)
        log = json.dumps({"step": 3, "loss": 0.1, HOSTILE: 0.2, "$\\frac{": 1.0})
        with (run / "train.jsonl").open("a") as file:
            file.write(log + "\n")
    failed = tmp_path / "runs" / "failed"
    failed.mkdir()
    (failed / "settings.json").write_text(make_settings({"labels": 1}).model_dump_json())
    (failed / "error.json").write_text(json.dumps({"error": HOSTILE}))
    html = _report(tmp_path)
    assert HOSTILE not in html and "<img" not in html and "<script>alert" not in html
    assert html.count("<script") == html.count("</script>") == 3  # two of data, and the page's own
    assert html.count("&lt;script&gt;") > 4 and "\\u003cscript\\u003e" in html


@pytest.mark.parametrize("alone", [True, False])
def test_a_single_run(tmp_path, alone):
    run = _run(tmp_path / "runs" / "one", log=5)
    text = _text(_report(run if alone else tmp_path))
    assert "Runs: 1 done." in text and "so no gain is given" in text
    assert "No finished run with SemiSAM has logged" in text


def test_only_rows_with_sam(tmp_path):
    _run(tmp_path / "runs" / "one", "geodesic")
    text = _text(_report(tmp_path))
    assert "mt + SemiSAM (geodesic)" in text and "no gain is given" in text
    assert "No finished run has a readable log" in text


def test_several_protocols_stand_apart(tmp_path):
    for protocol in ("paper", "published"):
        _run(tmp_path / "runs" / f"{protocol}-a", protocol=protocol, cases=20)
        _run(tmp_path / "runs" / f"{protocol}-b", "geodesic", 0.4, protocol=protocol, cases=20)
    html = _report(tmp_path, "--cases", "0")
    assert html.count('<table class="comparison">') == 2
    text = _text(html)
    assert "compare within a table" in text
    assert text.index("Protocol paper") < text.index("Protocol published")
    # Only the paper's own protocol has the paper's rows beside it, and they are marked.
    first, second = re.findall(r'<table class="comparison">.*?</table>', html, re.DOTALL)
    assert first.count("(paper, Table II)") == 2 and 'class="paper' in first
    assert "paper" not in second


def test_the_papers_rows_are_left_out_where_something_departs(tmp_path):
    _run(tmp_path / "runs" / "one", patch=(16, 16, 16), cases=20)
    html = _report(tmp_path)
    assert "(paper, Table II)" not in html and "every row here departs" in html


def test_runs_that_are_not_finished_or_damaged_are_told_of(tmp_path):
    runs = tmp_path / "runs"
    good = _run(runs / "good", log=30)
    with (good / "train.jsonl").open("a") as file:
        file.write('{"step": 30, "lo\n[1]\n\x00\x01\n{"step": 31, "loss": NaN}\n')
    log = read_log(next(r for r in read_bench(tmp_path).runs if r.path == good))
    assert log.damaged == 3 and log.frame["loss"].notna().sum() == 30
    (_run(runs / "half") / "result.json").write_text('{"run": ')
    (_run(runs / "scoreless") / "cases.csv").write_text("case,dice\n")
    (_run(runs / "wordy") / "result.json").write_text("[]")
    for name in ("waiting", "stopped", "failed"):
        (runs / name).mkdir()
        (runs / name / "settings.json").write_text(make_settings({"labels": 1}).model_dump_json())
    (runs / "stopped" / "train.jsonl").touch()
    (runs / "failed" / "error.json").write_text('{"error": "the loss is nan"}')
    text = _text(_report(tmp_path))
    assert "Runs: 1 done, 1 waiting, 1 stopped, 1 failed, 3 damaged." in text
    assert "failed failed the loss is nan" in text and "stopped stopped 0/1000" in text
    assert "waiting waiting 0/1000" in text
    assert "3 lines of the log of good could not be read" in text


def test_no_run_is_finished(tmp_path):
    (tmp_path / "runs" / "waiting").mkdir(parents=True)
    settings = make_settings({"labels": 1}).model_dump_json()
    (tmp_path / "runs" / "waiting" / "settings.json").write_text(settings)
    text = _text(_report(tmp_path))
    assert "No run of this folder is finished yet" in text and "waiting waiting 0/1000" in text


def test_several_seeds_have_their_own_bars(tmp_path):
    for seed in (0, 1):
        _run(tmp_path / "runs" / f"bare{seed}", dice=0.3 + seed / 50, seed=seed)
        _run(tmp_path / "runs" / f"sam{seed}", "geodesic", 0.4 + seed / 50, seed=seed)
    _run(tmp_path / "runs" / "other", "none", 0.5, method="dtc")
    html = _report(tmp_path, "--cases", "0")
    text = _text(html)
    assert "± one SD over runs" in text and "95 % bootstrap interval of the mean over test" in text
    assert _cells(html)[1][2] == "31.00 ± 1.41 cases ± 1.00"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "must hold runs, got nowhere (no such folder)"),
        (["."], "must hold runs, got . (no run in it)"),
        ([".", "--data", "nowhere"], "--data must be a folder of scans, got nowhere"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["report", *arguments])
    assert result.exit_code == 2 and said in " ".join(result.output.split())
    assert "Traceback" not in result.output and not list(tmp_path.iterdir())


def test_the_cases_shown_follow_the_rule(tmp_path):
    runs = tmp_path / "runs"
    scores = {"none": [0.5, 0.5, 0.5, 0.5, 0.5], "geodesic": [0.4, 0.6, 0.9, 0.45, 0.7]}
    for sam, values in scores.items():
        run = _run(runs / sam, sam, cases=5)
        frame = pd.read_csv(run / "cases.csv").assign(dice=values, case=list("abcde"))
        write_scores(run, frame)
    bench = read_bench(tmp_path)
    (part,) = bench.parts
    shown = choose(bench, part, 6)
    assert [(s.case, s.why) for s in shown] == [
        ("b", ["median Dice with SemiSAM"]),
        ("c", ["largest gain"]),
        ("a", ["largest loss"]),
    ]
    assert [s.case for s in choose(bench, part, 1)] == ["b"]


def test_a_method_has_one_colour_and_the_branch_fills_it(tmp_path):
    for method in ("supervised", "mt", "dtc"):
        for sam in ("none", "geodesic"):
            _run(tmp_path / "runs" / f"{method}{sam}", sam, method=method)
    rows = read_bench(tmp_path).parts[0].rows
    look = looks(rows)
    for row in rows:
        bare = look[row.method]
        assert look[row.name].color == bare.color and not bare.filled
        assert look[row.name].filled == row.with_sam
    assert len({how.color for how in look.values()}) == 3


def test_curves_are_running_means_over_runs():
    frames = [pd.DataFrame({"loss": values}) for values in (np.ones(9), np.full(7, 3.0))]
    line = smoothed(frames, "loss", 3)
    assert line is not None and line.x.tolist() == list(range(1, 10))
    assert line.mean[:7] == pytest.approx(2.0) and line.mean[8] == pytest.approx(1.0)
    assert line.sd is not None and line.sd[0] == pytest.approx(2**0.5)
    spike = smoothed([pd.DataFrame({"loss": [0.0, 0, 3, 0, 0]})], "loss", 3)
    assert spike is not None and spike.mean.tolist() == pytest.approx([0, 1, 1, 1, 0])
    assert smoothed(frames, "sam", 3) is None and window_of(None, []) == 5


LOGGING = """
from semisam.core.types import Step
from semisam.frameworks.supervised import Supervised

class Logging(Supervised):
    def training_step(self, batch, clock):
        step = super().training_step(batch, clock)
        figures = {"share of <sure> %": 0.5, "drift": -0.25, "unknown": float("nan")}
        return Step(step.losses, step.probs, metrics=figures)
"""


def test_any_figure_of_a_method_is_in_log_table_and_report(install, tmp_path):
    points = {"logging": "logging_method:Logging"}
    install("logging-dist", {"semisam.frameworks": points}, modules={"logging_method": LOGGING})
    settings = settings_of(
        **{"dataset": "phantom", "method": "logging", "labels": 3, "iterations": 2},
        network="vnet",
        dataset_options={"cases": 4, "test_cases": 1, "size": 32},
        network_options={"filters": 2},
        **{"patch": (16, 16, 16), "stride": (16, 16, 16), "precision": "fp32"},
        validate_every=1,
    )
    folder = tmp_path / "bench"
    execute(settings, folder / "runs" / "one")
    log = read_log(list_runs(folder)[0])
    assert log.frame["drift"].tolist() == [-0.25, -0.25] and "unknown" not in log.frame
    assert {"drift", "share of <sure> %"} <= log.metrics and "ce" not in log.metrics
    assert len(tabulate(folder)) == 1
    (row,) = pd.read_csv(folder / "results.csv").to_dict("records")
    assert row["training.drift"] == -0.25 and row["training.share of <sure> %"] == 0.5
    assert row["validation.last_dice"] == pytest.approx(log.frame["validation_dice"].iloc[-1])
    html = unescape(_report(folder))
    shown = CliRunner().invoke(main, ["runs", "show", str(folder / "runs" / "one")])
    assert shown.exit_code == 0 and "drift" in shown.output
    assert "figure of the method: drift, 3 labeled" in html
    assert "Dice on the validation cases, 3 labeled" in html
    assert "figure of the method: share of <sure> %, 3 labeled" in html
    assert "loss term: ce" in html and "loss term: drift" not in html


def test_pictures_are_prepared_as_for_the_training(tmp_path):
    """Scans that were added since change the median spacing of the folder."""
    scans, out = tmp_path / "scans", tmp_path / "runs" / "one"
    for n in range(4):
        for array, end in zip(scan(n, classes=2), ("", "_label"), strict=True):
            write(scans / f"p{n}{end}.nii.gz", array)
    command = ["train", "--data", str(scans), "--out", str(out), *TINY_NET, "--labels", "1"]
    command += ["--method", "supervised", "--iterations", "1", "--patch", "32x32x32"]
    done = CliRunner().invoke(main, [*command, "--device", "cpu", "--test", "p1"])
    assert done.exit_code == 0, done.output

    def found():
        bench = read_bench(tmp_path)
        case, (mask,) = MaskSource(bench, None, compute=True).of(
            choose(bench, bench.parts[0], 1)[0]
        )
        return case.image.geometry.spacing, mask.dice

    before = found()
    for n in range(4, 10):
        for array, end in zip(scan(n, classes=2), ("", "_label"), strict=True):
            write(scans / f"p{n}{end}.nii.gz", array, (2.0, 2.0, 2.0))
    assert found() == before and before[0] == (1.0, 1.0, 1.0)


def _without_a_test(run):
    result = json.loads((run / "result.json").read_text())
    result.update(metrics={}, data={**result["data"], "test": 0})
    (run / "result.json").write_text(json.dumps(result))
    (run / "cases.csv").unlink()


@pytest.mark.parametrize("others", [False, True])
def test_a_run_without_a_test_is_finished(tmp_path, others):
    _without_a_test(_run(tmp_path / "runs" / "one", method="supervised", test="none", log=3))
    if others:
        _run(tmp_path / "runs" / "bare")
        _run(tmp_path / "runs" / "guided", "geodesic", 0.4)
    html = _report(tmp_path)
    text = _text(html)
    assert f"Runs: {3 if others else 1} done." in text and "damaged" not in text
    assert html.count('<table class="comparison">') == (2 if others else 1)
    assert ("No finished run has a test, so there are no scores." in text) is not others
