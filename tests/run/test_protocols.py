"""What a protocol's name makes of a run, held to a table of the published code."""

from __future__ import annotations

import inspect
import math

import pandas as pd
import pytest
from click.testing import CliRunner
from tiny_runs import TINY_NET, changed

from semisam.bench.announcement import about_settings
from semisam.bench.comparing import comparison
from semisam.bench.grid import Axes, expand
from semisam.bench.results import read_finished
from semisam.bench.study import Grid
from semisam.bench.table_notes import protocol_lines
from semisam.cli.main import main
from semisam.core.errors import InputError
from semisam.core.schedules import Ramp
from semisam.core.types import Clock
from semisam.data.datasets.phantom import Phantom
from semisam.data.loading.sampling import BatchPlan, BatchSource, plan_batch
from semisam.data.loading.store import VolumeStore
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.run.model import window_of
from semisam.run.protocols import EVERY, PROTOCOLS, Protocol
from semisam.run.resolve import make_settings
from semisam.run.settings import RunSettings

# Read off the repositories: the Left Atrium scripts of UA-MT, DTC and DTML, SemiSAM's for
# supervised and mt, BCP's for bcp, SSL4MIS in 3D for the others on their patch and length.
# Rows: labeled + unlabeled.
#             iterations  patch            rows    largest component kept
RUNS = {
    "supervised": (12000, (112, 112, 80), (2, 0), True),
    "mt": (6000, (128, 128, 128), (1, 3), True),
    "ua-mt": (6000, (112, 112, 80), (2, 2), False),
    "dtc": (6000, (112, 112, 80), (2, 2), True),
    "dtml": (6000, (112, 112, 80), (2, 2), True),
    "ent-mini": (6000, (112, 112, 80), (2, 2), False),
    "cps": (6000, (112, 112, 80), (2, 2), False),
    "ict": (6000, (112, 112, 80), (2, 2), False),
    "urpc": (6000, (112, 112, 80), (2, 2), False),
    "bcp": (17000, (112, 112, 80), (4, 4), True),
    "mc-net": (15000, (112, 112, 80), (2, 2), False),
}
# Weights as the script multiplies them; the ramp is exp(-5 (1 - min(t // 150, 40) / 40)^2).
OPTIONS = {
    "supervised": {"supervised_weight": 0.5},
    "mt": {
        "supervised_weight": 1.0,  # loss_seg + loss_seg_dice
        "consistency_weight": 0.1 / 2,
        "consistency_rows": "all",
        "ema_decay": 0.99,
        "ema_buffers": False,
        "noise_std": 0.1,
        "noise_clip": 0.2,
    },
    "ua-mt": {
        "supervised_weight": 0.5,
        "consistency_weight": 0.1,
        "passes": 8,
        "ema_decay": 0.99,
        "ema_buffers": False,
        "noise_std": 0.1,
        "noise_clip": 0.2,
    },
    "dtc": {"background_channel": False, "beta": 0.3, "consistency_weight": 1.0},
    "dtml": {
        "background_channel": False,
        "supervised_weight": 0.5,
        "consistency_weight": 1.0,
        "consistency_count": 2,
    },
    "ent-mini": {"supervised_weight": 0.5, "consistency_weight": 0.1, "dice_classes": "all"},
    "cps": {
        "supervised_weight": 0.5,
        "dice_classes": "all",
        "consistency_weight": 0.1,
        "consistency_rows": "unlabeled",
    },
    "ict": {
        "alpha": 0.2,
        "ema_decay": 0.99,
        "ema_buffers": False,
        "supervised_weight": 0.5,
        "dice_classes": "all",
        "consistency_weight": 0.1,
    },
    "urpc": {
        "levels": 3,
        "divergence_of": "average",
        "supervised_weight": 0.5,
        "dice_classes": "all",
        "consistency_weight": 0.1,
    },
    "bcp": {
        "beta": 2 / 3,
        "alpha": 0.5,
        "pretrain": 2000 / 17000,
        "largest_component": True,
        "ema_decay": 0.99,
        "ema_buffers": False,
        "supervised_weight": 0.5,
    },
    "mc-net": {
        "temperature": 0.1,
        "target_gradient": True,
        "supervised_weight": 0.5,
        "consistency_weight": 1.0,
        "rise": 6000 / 15000,
    },
}
# What the code does otherwise than the protocol, and every row of a method names.
EVERY_ROW = ("padding=least", "rows=one labeled row per labeled case at most")
UNLIKE = {
    "supervised": (*EVERY_ROW, "supervised.test_patch=training patch"),
    "mt": (*EVERY_ROW, "mt.teacher=starts as the student"),
    "ua-mt": (*EVERY_ROW, "ua-mt.teacher=starts as the student"),
    "dtc": EVERY_ROW,
    "dtml": EVERY_ROW,
    "ent-mini": (*EVERY_ROW, "ent-mini.script=for other scans, network and length"),
    "cps": (
        *EVERY_ROW,
        "cps.script=for other scans, network and length",
        "cps.initialisation=of one kind",
    ),
    "ict": (
        *EVERY_ROW,
        "ict.script=for other scans, network and length",
        "ict.mixes=one per row",
        "ict.teacher=all rows in one pass",
    ),
    "urpc": (
        *EVERY_ROW,
        "urpc.script=for other scans, network and length",
        "urpc.dropout=of the network",
        "urpc.rate=a tenth",
    ),
    "bcp": (
        *EVERY_ROW,
        "bcp.dice=squares of the foreground, over the batch",
        "bcp.passes=of all rows together",
        "bcp.stages=with one schedule, from the last network",
    ),
    "mc-net": (*EVERY_ROW, "mc-net.dice=with squares", "mc-net.weights=the last"),
}
CONSTANT_RATE = {"mc-net": 15000}  # the rate falls after the end
SSL4MIS = {"ent-mini", "cps", "ict", "urpc"}
BRANCH = ("semisam.prompts=of the method's map", "semisam.mask=probability above 0.5")
SMALL = {"patch": (64, 64, 48), "iterations": 1000}
TINY = (
    *("--patch", "16x16x16", "--iterations", "2", "--stride", "16x16x16"),
    *TINY_NET,
)


def _usual_branch():
    """Return the options of the branch as its constructor has them; the seed is the run's."""
    options = inspect.signature(SemiSAM).parameters.values()
    return {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY and p.name != "seed"}


def _published(method, suggested=None, **explicit):
    given = {"method": method, "labels": 2, "protocol": "published", **explicit}
    return make_settings(given, suggested)


@pytest.mark.parametrize("method", RUNS)
@pytest.mark.parametrize("suggested", [{}, SMALL], ids=["full size", "small scans"])
def test_run_settings_are_the_published_ones(method, suggested):
    iterations, patch, rows, largest = RUNS[method]
    settings = _published(method, suggested)
    assert (settings.iterations, settings.patch) == (iterations, patch)
    assert settings.components == ("largest" if largest else "all")
    assert (settings.lr, settings.lr_step) == (0.01, CONSTANT_RATE.get(method, 2500))
    assert (settings.momentum, settings.weight_decay, settings.clip) == (0.9, 1e-4, None)
    assert settings.precision == "fp32" and settings.augment == "mirrored"
    assert settings.schedule == ("poly" if method in SSL4MIS else "step")
    assert window_of(settings)[1] == (18, 18, 4)
    uses = registry.load("framework", method).uses_unlabeled
    plan = plan_batch(settings.batch, 4, 76, uses, settings.labeled_rows)
    assert (plan.labeled, plan.unlabeled) == rows
    assert settings.departures == UNLIKE[method]
    with_sam = _published(method, suggested, sam="geodesic")
    assert with_sam.departures == (*UNLIKE[method], *BRANCH)


@pytest.mark.parametrize("method", RUNS)
def test_options_of_the_method_are_the_published_ones(method):
    loaded = registry.load("framework", method)
    want = dict(OPTIONS[method])
    if "ramp_power" in inspect.signature(loaded).parameters:
        want |= {"ramp_power": 2.0, "ramp_every": 150}
    assert _published(method).method_options == want


def test_options_of_the_branch_are_the_published_ones():
    # 0.5 * consistency_weight_sam, whose end value is 0.1
    want = {"weight": 0.05, "target": "hard", "ramp_power": 2.0, "ramp_every": 150}
    assert _published("mt", sam="geodesic").semisam_options == {**_usual_branch(), **want}


def test_the_protocols_of_the_branch():
    """``paper``: its equations are the constructor's defaults; ``classic``: what worked best."""
    branch = {
        protocol: make_settings({"labels": 2, "sam": "geodesic", "protocol": protocol})
        for protocol in ("paper", "classic", "published")
    }
    default = make_settings({"labels": 2, "sam": "geodesic"})
    assert default == make_settings({"labels": 2, "sam": "geodesic", "protocol": "default"})
    best = {"weight": 0.5, "loss": "dice", "ramp_rate": 0.0}
    assert branch["paper"].semisam_options == _usual_branch()
    assert branch["classic"].semisam_options == {**_usual_branch(), **best}
    assert {name: s.prompter for name, s in branch.items()} == {
        "paper": "uncertainty-points",
        "classic": "center-points",
        "published": "uncertainty-points",
    }
    options = branch["classic"].prompter_options
    assert (options["points"], options["max_uncertainty"]) == (3, 1.0)
    for settings in branch.values():
        always = settings.departures
        assert always == ((*UNLIKE["mt"], *BRANCH) if settings.protocol == "published" else ())
        assert changed(settings, iterations=9).departures == ("iterations=9", *always)
    other = make_settings(
        {
            **{"labels": 2, "sam": "geodesic", "prompter": "box", "protocol": "classic"},
            **{"prompter_options": {"margin": 3}, "semisam_options": {"weight": 0.5}},
        }
    )
    # The weight is the protocol's own.
    assert other.departures == ("prompter=box", "box.margin=3")
    bare = make_settings({"labels": 2, "prompter": "box"})
    assert bare.departures == ()


@pytest.mark.parametrize("t", [0, 149, 150, 1500, 2999, 3000, 5850, 5999])
def test_the_ramps_are_those_of_the_scripts(t):
    def script(epoch, rampup=40.0):
        phase = 1.0 - min(max(epoch, 0.0), rampup) / rampup
        return math.exp(-5.0 * phase * phase)

    clock = Clock(t, 6000)
    ramp = {"power": 2.0, "every": 150}
    assert Ramp(0.1, **ramp)(clock) == pytest.approx(0.1 * script(t // 150))
    falling = Ramp(0.05, rising=False, **ramp)(clock)
    assert falling == pytest.approx(0.5 * 0.1 * script((6000 - t) // 150))


def test_a_short_training_has_few_steps_and_one_below_150_none():
    ramp = Ramp(1.0, power=2.0, every=150)
    assert len({ramp(Clock(t, 1000)) for t in range(1000)}) == 7  # the start, and six steps
    assert {ramp(Clock(t, 100)) for t in range(100)} == {math.exp(-5)}


def test_order_of_what_is_merged():
    """Defaults < suggested < the protocol's < the protocol's for the method < the user's."""
    name = "layers"
    protocol = Protocol(
        note="of this test",
        run={"lr": 0.3, "momentum": 0.3, "clip": 0.3},
        runs={"dtc": {"momentum": 0.4, "clip": 0.4}},
    )
    suggested = {"iterations": 2, "lr": 0.2, "momentum": 0.2, "clip": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semisam.run.resolve.PROTOCOLS", {**PROTOCOLS, name: protocol})
        given = {"labels": 1, "protocol": name, "clip": 0.5}
        dtc = make_settings({**given, "method": "dtc"}, suggested)
        other = make_settings({**given, "method": "mt"}, suggested)
    assert dtc.weight_decay == RunSettings.model_fields["weight_decay"].default
    assert (dtc.iterations, dtc.lr, dtc.momentum, dtc.clip) == (2, 0.3, 0.4, 0.5)
    assert (other.iterations, other.lr, other.momentum, other.clip) == (2, 0.3, 0.3, 0.5)


def test_the_paper_takes_what_the_data_suggest():
    settings = make_settings({"labels": 1, "method": "dtc"}, SMALL)
    assert (settings.patch, settings.iterations) == ((64, 64, 48), 1000)
    assert settings.method_options == registry.default_keywords(
        registry.load("framework", "dtc"), "framework"
    )
    assert settings.departures == ("patch=64x64x48",)


@pytest.mark.parametrize(("protocol", "expected"), [("default", 1000), ("classic", 6000)])
def test_the_length_for_scans_that_suggest_none(protocol, expected):
    given = {"labels": 1, "method": "mt", "protocol": protocol}
    assert make_settings(given).iterations == expected
    assert make_settings(given, {"iterations": 300}).iterations == 300
    assert make_settings({**given, "iterations": 50}, {"iterations": 300}).iterations == 50


def test_a_patch_of_ones_own_takes_the_stride_with_it():
    settings = _published("mt", patch=(64, 64, 48), iterations=10)
    assert window_of(settings)[1] == (10, 10, 2)
    assert settings.departures == ("iterations=10", "patch=64x64x48", *UNLIKE["mt"])


def test_the_default_recipe_tests_with_windows_a_third_of_a_patch_apart():
    settings = make_settings({"labels": 1, "method": "mt"}, SMALL)
    assert settings.patch == (64, 64, 48) and settings.stride == (21, 21, 16)
    assert not any(departure.startswith("stride") for departure in settings.departures)
    dense = make_settings({"labels": 1, "method": "mt", "stride": (10, 10, 2)}, SMALL)
    assert "stride=10x10x2" in dense.departures


def test_departures_are_named():
    settings = _published(
        "dtc",
        lr=0.02,
        method_options={"beta": 0.5, "ramp_power": 2.0},
        network="vnet",
        network_options={"filters": 8},
        sam="geodesic",
        semisam_options={"weight": 0.1},
    )
    assert settings.departures == (
        *("lr=0.02", "dtc.beta=0.5", "vnet.filters=8", "semisam.weight=0.1"),
        *(*UNLIKE["dtc"], *BRANCH),
    )


def test_a_method_that_the_protocol_does_not_describe_is_refused():
    with pytest.raises(InputError, match=r"that it describes, supervised, mt.*got pi-model"):
        _published("pi-model")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_names_methods_that_there_are(protocol):
    described = PROTOCOLS[protocol]
    assert set(described.runs) <= set(described.methods) <= set(registry.list_plugins("framework"))
    assert set(described.unlike) <= {EVERY, "semisam", *described.methods}
    assert set(described.run) | {k for run in described.runs.values() for k in run} <= set(
        RunSettings.model_fields
    )


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_grid_of_every_method_trains_and_its_rows_say_which_protocol(tiny_la, tmp_path):

    def bench(protocol, methods, sam):
        command = ["bench", "--data", str(tiny_la), "--out", str(tmp_path / protocol), *TINY]
        command += ["--method", methods, "--labels", "2", "--sam", sam, "--protocol", protocol]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return result.output, pd.read_csv(tmp_path / protocol / "table.csv")

    output, table = bench("published", ",".join(RUNS), "none")
    assert sorted(table["method"]) == sorted(RUNS)
    assert set(table["protocol"]) == {"published"}
    common = "iterations=2; patch=16x16x16; stride=16x16x16; vnet.filters=2"
    for row in table.itertuples():
        assert row.departures == "; ".join((common, *UNLIKE[row.method]))
    assert "Protocol published, departing from it in iterations=2, patch=16x16x16" in output
    rows = pd.read_csv(tmp_path / "published" / "results.csv").set_index("method")
    assert rows.loc["mt", "labeled_rows"] == 1 and rows.loc["dtc", "precision"] == "fp32"
    assert set(rows["protocol"]) == {"published"}

    bench("paper", "mt", "none")
    found = read_finished(tmp_path / name for name in ("paper", "published"))
    mixed = comparison(found.results[found.results["method"] == "mt"], found.cases)
    assert mixed[["protocol", "method", "runs"]].to_numpy().tolist() == [
        ["paper", "mt", 1],
        ["published", "mt", 1],
    ]
    assert [line.split(",")[0] for line in protocol_lines(mixed)] == [
        "Protocol paper",
        "Protocol published",
    ]


def test_a_grid_of_small_scans_says_whose_patch_it_takes():
    """A protocol's patch beats the one that suits the scans, which are then padded."""
    phantoms = Phantom(cases=3, test_cases=1, size=32)
    small = {"phantom": {"size": 32}}
    grid = Grid(Axes(["dtc", "mt"], labels=[2]), {"protocol": "published"}, small)
    runs = expand(grid.axes, grid.asked)
    lines = about_settings([grid], runs)
    assert lines[0] == (
        "Protocol published replaces values fitted to these scans (iterations 300, patch 48x48x32):"
    )
    assert lines[1:] == [
        "  dtc: iterations 6000, patch 112x112x80",
        "  mt: iterations 6000, patch 128x128x128",
    ]
    own = {"protocol": "published", "patch": (16, 16, 16), "iterations": 3}
    given = Grid(Axes(["dtc"]), own, small)
    assert about_settings([given], expand(given.axes, given.asked)) == []
    store = VolumeStore(phantoms, labeled=["train_000"], unlabeled=["train_001"], test=[])
    source = BatchSource(
        store, store.labeled, store.unlabeled, BatchPlan(1, 1), runs[0].patch, seed=0
    )
    batch = source.batch(0)
    assert batch.image.shape == (2, 1, 112, 112, 80) and batch.label.shape == (1, 112, 112, 80)
    assert (batch.image != 0).float().mean() < 32**3 / (112 * 112 * 80) + 1e-6
    assert (batch.label == 1).any()


# Read off SSL4MIS's train_*_2D.py for ACDC: rows, and weights as the scripts multiply them.
FLAT = {
    "supervised": ((24, 0), {"supervised_weight": 0.5}),
    "mt": ((12, 12), {"consistency_weight": 0.1, "consistency_rows": "unlabeled"}),
    "ua-mt": ((12, 12), {"consistency_weight": 0.1 * 4 / 2, "passes": 8}),
    "urpc": ((12, 12), {"divergence_of": "average", "dice_classes": "all"}),
    "cps": ((12, 12), {"consistency_rows": "unlabeled", "dice_classes": "all"}),
    "ict": ((12, 12), {"alpha": 0.2, "dice_classes": "all"}),
    "ent-mini": ((12, 12), {"consistency_weight": 0.1, "dice_classes": "all"}),
}


@pytest.mark.parametrize("method", FLAT)
def test_published_for_two_axes_is_ssl4mis(method):
    rows, options = FLAT[method]
    settings = make_settings(
        {"protocol": "published", "method": method, "labels": 7}, {"patch": (256, 256)}
    )
    assert (settings.iterations, settings.patch, settings.schedule) == (30000, (256, 256), "poly")
    assert (settings.network, settings.lr, settings.weight_decay) == ("unet2d", 0.01, 1e-4)
    unlike = PROTOCOLS["published"].for_axes(2).not_reproduced(method, branch=False)
    assert sorted(settings.departures) == sorted(f"{key}={how}" for key, how in unlike.items())
    assert not settings.choices
    framework = registry.load("framework", method)
    plan = plan_batch(settings.batch, 24, 24, framework.uses_unlabeled, settings.labeled_rows)
    assert (plan.labeled, plan.unlabeled) == rows
    found = {**settings.method_options}
    assert {key: found[key] for key in options} == options
    if "ramp_power" in found:
        for step in (0, 1000, 29999):
            ramp = Ramp(0.1, power=found["ramp_power"], every=found["ramp_every"])
            want = 0.1 * math.exp(-5 * (1 - (step // 150) / 200) ** 2)
            assert ramp(Clock(step, 30000)) == pytest.approx(want)


def test_published_for_two_axes_describes_what_ssl4mis_has():
    with pytest.raises(InputError, match="ua-mt, ent-mini, cps, ict, urpc, got dtc"):
        make_settings({"protocol": "published", "method": "dtc", "labels": 1, "patch": (64, 64)})
    solid = make_settings({"protocol": "published", "method": "dtc", "labels": 1})
    assert len(solid.patch) == 3 and solid.network == "vnet"
