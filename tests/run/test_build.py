"""The dataset of a folder, and the network of a method."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from scan_files import write_folder
from tiny_la import write_tiny_la
from tiny_runs import settings_of

from semisam.core.errors import InputError, PluginError, SemisamWarning, UnservedHeads
from semisam.plugins.registry import GROUPS
from semisam.run.build import make_framework, open_dataset, recognise_dataset

MODULE = """
class Any:
    @classmethod
    def recognises(cls, path): return True

class Crashes:
    @classmethod
    def recognises(cls, path): raise KeyError("train")

def factory(path): ...
"""


@pytest.fixture
def scans(tmp_path: Any) -> Any:
    return write_folder(tmp_path / "scans")


def test_a_broken_dataset_is_named_and_skipped(install: Any, scans: Any):
    points = {"torn": "no_such_module:Data", "crashes": "half_module:Crashes"}
    install("half-dist", {GROUPS["dataset"]: points}, modules={"half_module": MODULE})
    with pytest.warns(SemisamWarning) as caught:
        assert recognise_dataset(scans) == "folder"
    first, second = sorted(str(w.message) for w in caught)
    assert "got crashes of distribution half-dist: KeyError: 'train'. It is skipped" in first
    assert "got torn of distribution half-dist" in second and "no_such_module" in second


def test_a_dataset_of_another_kind_of_callable_recognises_nothing(install: Any, scans: Any):
    points = {"made": "plain_module:factory"}
    install("plain-dist", {GROUPS["dataset"]: points}, modules={"plain_module": MODULE})
    assert recognise_dataset(scans) == "folder"


def test_two_that_recognise_a_folder_of_images_are_named(install: Any, scans: Any):
    points = {"greedy": "greedy_module:Any"}
    install("greedy-dist", {GROUPS["dataset"]: points}, modules={"greedy_module": MODULE})
    with pytest.raises(InputError, match=r"which folder and greedy recognises.*--dataset"):
        recognise_dataset(scans)


def test_a_plugin_does_not_change_the_reading_of_a_known_layout(install: Any, tmp_path: Any):
    """Nor is it imported, nor the phantoms, which have no folder."""
    greedy = {"greedy": "greedy_module:Any"}
    site = install("greedy-dist", {GROUPS["dataset"]: greedy}, modules={"greedy_module": MODULE})
    folder = write_tiny_la(tmp_path / "la")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from pathlib import Path; "
        "from semisam.run.build import recognise_dataset; "
        f"assert recognise_dataset(Path({str(folder)!r})) == 'la'; "
        "loaded = {'greedy_module', 'semisam.data.datasets.phantom'} & set(sys.modules); "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_heads_that_the_network_lacks_name_the_networks_that_have_them():
    settings = settings_of(method="urpc", labels=1, network="unet")
    with pytest.raises(UnservedHeads) as caught:
        make_framework(settings, 1, 2)
    message = str(caught.value)
    assert "must serve the heads of method 'urpc', got unet: " in message
    assert "got logits_level1" in message and message.endswith("that serve them: vnet.")


def test_an_option_that_the_network_refuses_is_no_lack_of_heads(install: Any):
    module = (
        "from semisam.testing.samples import TinyNet\n"
        "class Net(TinyNet):\n"
        "    def __init__(self, channels, heads, *, width: int = 1):\n"
        "        if width < 1: raise ValueError(f'width must be at least 1, got {width}.')\n"
        "        super().__init__(channels, heads)\n"
    )
    install("thin-dist", {GROUPS["network"]: {"thin": "thin:Net"}}, modules={"thin": module})
    settings = settings_of(method="mt", labels=1, network="thin", network_options={"width": 0})
    with pytest.raises(PluginError, match="'thin' refuses its options: width must") as caught:
        make_framework(settings, 1, 2)
    assert not isinstance(caught.value, UnservedHeads)


def test_a_dataset_that_cannot_be_opened_is_one_sentence(install: Any, scans: Any):
    module = "class Data:\n    def __init__(self, path): raise RuntimeError('no reader')"
    install(
        "shut-dist",
        {GROUPS["dataset"]: {"shut": "shut_module:Data"}},
        modules={"shut_module": module},
    )
    with pytest.raises(PluginError, match=r"'shut' could not be constructed .*: no reader"):
        open_dataset(settings_of(dataset="shut", data=str(scans), labels=1))
