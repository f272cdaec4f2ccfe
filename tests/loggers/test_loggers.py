"""Loggers: the contract with the real package where it is installed, and with a stand-in."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys

import pytest
from tiny_runs import changed

from semisam.core.errors import PluginError, SemisamWarning
from semisam.plugins.construction import construct
from semisam.plugins.registry import list_plugins
from semisam.run.execute import execute
from semisam.run.model import load_run
from semisam.testing import LoggerContract
from semisam.training.checkpoint import TrainLog

WANDB = """
runs = {}

class Run:
    def __init__(self, given):
        self.given, self.figures = given, {}

    def log(self, figures, step):
        self.figures.setdefault(step, figures)

    def finish(self):
        pass

def init(**given):
    assert given["mode"] == "offline" and given["resume"] == "allow"
    return runs.setdefault((given["dir"], given["id"]), Run(given))
"""

TRACKIO = """
runs = {}

class Run:
    def __init__(self):
        self.figures = {}

    def log(self, figures, step):
        self.figures[step] = figures

    def finish(self):
        pass

def init(*, project, name, config, resume):
    assert resume == "allow"
    return runs.setdefault((project, name), Run())
"""

MLFLOW_PARTS = {
    "__init__": "",
    "entities": """
import collections
Metric = collections.namedtuple("Metric", "key value timestamp step")
""",
    "tracking": """
import re
from types import SimpleNamespace as Some

runs, experiments = {}, {}

class MlflowClient:
    def __init__(self, uri):
        self.uri = uri

    def get_experiment_by_name(self, name):
        return experiments.get(name)

    def create_experiment(self, name):
        experiments[name] = Some(experiment_id="1")
        return "1"

    def search_runs(self, places, text, max_results):
        key = re.fullmatch("tags.`semisam.run` = '(.*)'", text)[1]
        return [r for r in runs.values() if r.tags["semisam.run"] == key][:max_results]

    def create_run(self, place, run_name, tags):
        run = Some(info=Some(run_id=str(len(runs))), tags=tags, figures={}, params={})
        runs[run.info.run_id] = run
        return run

    def log_param(self, run, name, value):
        assert runs[run].params.setdefault(name, value) == value

    def log_batch(self, run, metrics):
        for m in metrics:
            assert re.fullmatch(r"[A-Za-z0-9_. /-]+", m.key)
            runs[run].figures.setdefault(m.step, {})[m.key] = m.value

    def set_terminated(self, run):
        pass
""",
}


@contextlib.contextmanager
def _stand_in(package, files, folder, monkeypatch):
    """Put a stand-in in the place of a package, installed or not; give one of its modules."""
    for name, text in files.items():
        (folder / package).mkdir(exist_ok=True)
        (folder / package / f"{name}.py").write_text(text)
    real = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == package}
    for name in real:
        del sys.modules[name]
    monkeypatch.syspath_prepend(folder)
    try:
        yield importlib.import_module(".".join([package, *list(files)[1:][-1:]]))
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        sys.modules.update(real)


def _make(name, **options):
    return construct("logger", name, (), options)


class TestTensorBoard(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self):
        self.events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def make(self):
        return _make("tensorboard")

    def logged(self, folder):
        events = self.events.EventAccumulator(str(folder / "tensorboard")).Reload()
        found = {}
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                found.setdefault(event.step, {})[name] = event.value
        return found


class TestWandbWithAStandIn(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, tmp_path, monkeypatch):
        with _stand_in("wandb", {"__init__": WANDB}, tmp_path, monkeypatch) as self.wandb:
            yield

    def make(self):
        return _make("wandb", mode="offline")

    def logged(self, folder):
        (run,) = (run for key, run in self.wandb.runs.items() if key[0] == str(folder))
        assert run.given["name"] == folder.name and run.given["project"] == "semisam"
        return run.figures


class TestTrackioWithAStandIn(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, tmp_path, monkeypatch):
        with _stand_in("trackio", {"__init__": TRACKIO}, tmp_path, monkeypatch) as self.trackio:
            yield

    def make(self):
        return _make("trackio")

    def logged(self, folder):
        from semisam.loggers._package import key_of

        return self.trackio.runs["semisam", f"{folder.name}-{key_of(folder)}"].figures


class TestMLflowWithAStandIn(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, tmp_path, monkeypatch):
        with _stand_in("mlflow", MLFLOW_PARTS, tmp_path, monkeypatch) as self.tracking:
            yield

    def make(self):
        return _make("mlflow", uri="file:mlruns")

    def logged(self, folder):
        from semisam.loggers._package import key_of

        runs = self.tracking.runs.values()
        (run,) = (run for run in runs if run.tags["semisam.run"] == key_of(folder))
        assert run.params["method"] == "mt"
        return run.figures


class TestWandbOffline(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, monkeypatch):
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_SILENT", "true")

    def make(self):
        return _make("wandb", mode="offline")


class TestTrackio(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
        pytest.importorskip("trackio")

    def make(self):
        return _make("trackio")


class TestMLflowWithFiles(LoggerContract):
    @pytest.fixture(autouse=True)
    def _package(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        self.tracking = pytest.importorskip("mlflow.tracking")
        self.uri = f"file:{tmp_path}"

    def make(self):
        return _make("mlflow", uri=self.uri)

    def logged(self, folder):
        from semisam.loggers._package import key_of

        client = self.tracking.MlflowClient(self.uri)
        place = client.get_experiment_by_name("semisam").experiment_id
        (run,) = client.search_runs([place], f"tags.`semisam.run` = '{key_of(folder)}'")
        found = {}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                found.setdefault(metric.step, {})[name] = metric.value
        return found


@pytest.mark.parametrize("name", sorted(list_plugins("logger")))
def test_a_missing_package_is_one_sentence(name, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda asked: None if asked == name else find(asked)
    )
    told = f"the logger must have the package {name}, got an environment without it. Run pip"
    with pytest.raises(PluginError, match=told):
        _make(name)


class Failing:
    def __init__(self, where):
        self.where, self.calls = where, []

    def _call(self, what):
        self.calls.append(what)
        if what == self.where:
            raise ConnectionError("no route to host")

    def open(self, folder, settings, start):
        self._call("open")

    def log(self, step, figures):
        self._call("log")

    def close(self):
        self._call("close")


def test_a_logger_that_fails_is_given_up_and_the_file_goes_on(tmp_path):
    logger = Failing("log")
    with (
        pytest.warns(SemisamWarning, match="must log step 0, got ConnectionError: no route"),
        TrainLog(tmp_path, 0, logger) as log,
    ):
        for step in range(3):
            log.write(step, {"loss": 1.0})
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 3
    assert logger.calls == ["open", "log"]
    with (
        pytest.warns(SemisamWarning, match="must close, got"),
        TrainLog(tmp_path, 3, Failing("close")),
    ):
        pass


def test_a_logger_that_cannot_be_opened_stops_the_run_before_its_first_step(tmp_path):
    with pytest.raises(PluginError, match=r"the logger must open .*ConnectionError: no route"):
        TrainLog(tmp_path, 0, Failing("open"))


LOGGER = """
import json

class Lines:
    def __init__(self, *, width: int = 1):
        self.width = width

    def open(self, folder, settings, start):
        self.path, self.lines = folder / "lines.json", [settings["method"], self.width, start]

    def log(self, step, figures):
        self.lines.append([step, *figures])

    def close(self):
        self.path.write_text(json.dumps(self.lines))
"""


def test_a_run_sends_what_it_logs_and_is_the_same_run_without(tiny_settings, install, tmp_path):
    points = {"lines": "lines_module:Lines"}
    install("lines-dist", {"semisam.loggers": points}, modules={"lines_module": LOGGER})
    settings = changed(tiny_settings, logger="lines", logger_options={"width": 3})
    assert settings.identity("x") == tiny_settings.identity("x")
    execute(settings, tmp_path / "run")
    method, width, start, *lines = json.loads((tmp_path / "run" / "lines.json").read_text())
    assert (method, width, start) == ("mt", 3, 0)
    log = [json.loads(line) for line in (tmp_path / "run" / "train.jsonl").open()]
    assert lines == [[line["step"], *list(line)[1:]] for line in log]
    load_run(tmp_path / "run")


def test_no_logger_is_chosen_without_being_asked(tiny_settings, tmp_path):
    execute(tiny_settings, tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
