"""Paired comparisons over cases, held to textbook values and to what they must find."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from semisam.bench.comparing import comparison
from semisam.bench.statistics import bootstrap_interval, compare, holm, ranks, signed_rank


def test_holm_is_the_textbook_example():
    # Three hypotheses: 0.01 * 3, max(.03, 0.02 * 2), max(.04, 0.04 * 1).
    assert holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    got = holm([math.nan, 0.01, math.nan, 0.03])
    assert math.isnan(got[0]) and math.isnan(got[2])
    assert [got[1], got[3]] == pytest.approx([0.02, 0.03])
    assert holm([]) == []


def test_the_interval_covers_as_often_as_it_says():
    """Of 300 samples of 20 cases, about 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(3.0, 8.0, 20))
        covered += low <= 3.0 <= high
    # Percentile intervals of 20 values are known to be a little short.
    assert 0.90 <= covered / 300 <= 0.98


def test_the_interval_is_that_of_the_normal_theory_where_it_holds():
    values = np.random.default_rng(1).normal(0, 5, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.06)
    assert high == pytest.approx(values.mean() + half, abs=0.06)
    assert bootstrap_interval(values) == (low, high)


def test_scans_of_a_patient_are_drawn_together():
    """Four patients with ten scans each are four units, whose scans hardly differ."""
    rng = np.random.default_rng(0)
    effect = np.repeat([1.0, 2.0, 3.0, 4.0], 10)
    patients = [f"p{n // 10}" for n in range(40)]
    wrapped = effect + rng.normal(0, 0.01, 40)
    bare = np.zeros(40)
    apart, together = compare(bare, wrapped), compare(bare, wrapped, patients=patients)
    assert (apart.cases, together.cases) == (40, 4)
    assert together.gain == apart.gain
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert together.p == pytest.approx(0.125) and apart.p < 1e-6
    # Each patient by itself is what cases are without patients.
    assert compare(bare, wrapped, patients=[str(n) for n in range(100, 140)]) == apart
    # A patient with more scans weighs more, as in the mean over cases.
    low, high = bootstrap_interval(np.array([0.0, 0.0, 0.0, 4.0]), patients=["a", "a", "a", "b"])
    assert (low, high) == (0.0, 4.0)
    scores = np.stack([effect, effect[::-1]])
    assert ranks(scores, patients=patients)[0].first < 0.8
    one = compare(bare, wrapped, patients=["p"] * 40)
    assert one.cases == 1 and math.isnan(one.low) and math.isnan(one.p)


def test_ranks_move_where_rows_are_close():
    rng = np.random.default_rng(0)
    hard = rng.normal(80, 10, 20)  # the same cases are hard for all rows
    scores = np.stack([hard, hard + rng.normal(0.1, 1, 20), hard - 5])
    found = ranks(scores)
    means = scores.mean(1)
    assert [own.rank for own in found] == [1 + int((means > mean).sum()) for mean in means]
    assert [(own.low, own.high) for own in found] == [(1, 2), (1, 2), (3, 3)]
    assert found[0].first + found[1].first == pytest.approx(1) and found[2].first == 0
    assert 0.1 < found[0].first < 0.9
    equal = ranks(np.ones((2, 4)))
    assert [own.rank for own in equal] == [1, 1]


def test_the_signed_rank_test():
    difference = np.array([6.0, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75])
    # Darwin's maize, as in the documentation of every implementation: W = 24, p = 0.0413.
    assert signed_rank(difference) == pytest.approx(0.041259765625)
    assert signed_rank(np.zeros(5)) == 1.0


def test_compare():
    bare = np.linspace(50, 70, 20)
    found = compare(bare, bare + np.tile([1.0, 3.0], 10))
    assert found.gain == pytest.approx(2.0) and found.low < 2 < found.high and found.p < 1e-3
    alone = compare(np.array([1.0]), np.array([4.0]))
    assert alone.gain == 3 and math.isnan(alone.low) and math.isnan(alone.p)


def _tables(runs=2):
    """Two methods, each with and without SAM: mt gains 5 on every case, dtc nothing on average."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.6, 0.1, 12)
    noise = rng.normal(0, 0.02, 12)
    rows, cases = [], []
    for method in ("mt", "dtc"):
        for sam in ("none", "geodesic"):
            for seed in range(runs):
                run = f"{method}{sam}{seed}"
                gain = (0.05 if method == "mt" else noise - noise.mean()) * (sam != "none")
                dice = difficulty + gain + 0.01 * seed
                rows.append(
                    {
                        **{"run": run, "protocol": "paper", "method": method, "sam": sam},
                        **{"sam_control": "", "prompter": "", "departures": ""},
                        **{"labels": 2, "subset": 0, "seed": seed, "data.labeled": 2},
                        **{"data.unlabeled": 8, "metrics.empty_predictions": 0},
                        **{"cost.train_seconds": 1.0, "cost.peak_memory_gib": 1.0},
                        **{f"metrics.{m}": dice.mean() for m in ("dice", "jaccard")},
                        **{f"metrics.{m}": 1.0 for m in ("asd_voxel", "hd95_voxel")},
                    }
                )
                cases += [
                    {
                        **{"run": run, "case": str(i), "dice": value, "jaccard": value},
                        **{"asd_voxel": 1.0, "hd95_voxel": 1.0},
                    }
                    for i, value in enumerate(dice)
                ]
    return pd.DataFrame(rows), pd.DataFrame(cases), difficulty


def test_the_table_finds_the_gain_that_is_there_and_not_the_other():
    rows, cases, _ = _tables()
    table = comparison(rows, cases.sample(frac=1, random_state=0)).set_index(["method", "sam"])
    mt, dtc = table.loc["mt", "geodesic"], table.loc["dtc", "geodesic"]
    assert mt["gain_dice"] == pytest.approx(5.0)
    assert (mt["gain_low"], mt["gain_high"]) == pytest.approx((5.0, 5.0))
    assert mt["gain_p_holm"] == pytest.approx(2 * mt["gain_p"]) and mt["gain_p_holm"] < 0.01
    assert dtc["gain_dice"] == pytest.approx(0.0, abs=1e-9)
    assert dtc["gain_low"] < 0 < dtc["gain_high"] and dtc["gain_p_holm"] > 0.3
    assert table.loc[("mt", "none"), ["gain_dice", "gain_p", "gain_p_holm"]].isna().all()


def test_the_deviations_over_runs_and_over_cases_are_kept_apart():
    rows, cases, difficulty = _tables()
    row = comparison(rows, cases).set_index(["method", "sam"]).loc["mt", "none"]
    assert row["dice_sd"] == pytest.approx(100 * np.std([0, 0.01], ddof=1))
    assert row["dice_sd_cases"] == pytest.approx(100 * difficulty.std(ddof=1))


def test_wilcoxon_is_scipys():
    rows, cases, _ = _tables(runs=1)
    table = comparison(rows, cases).set_index(["method", "sam"])
    dice = {run: group["dice"].to_numpy() for run, group in cases.groupby("run")}
    want = stats.wilcoxon(100 * (dice["dtcgeodesic0"] - dice["dtcnone0"])).pvalue
    assert table.loc[("dtc", "geodesic"), "gain_p"] == pytest.approx(want)
