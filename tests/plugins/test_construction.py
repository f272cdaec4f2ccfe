"""A constructor's fault is one sentence that names the plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semisam.core.errors import BrokenPlugin, InputError, PluginError
from semisam.plugins.construction import construct
from semisam.plugins.registry import GROUPS

MODULE = """
from semisam.core.errors import InputError

def fails(error):
    def make(**options):
        raise error
    return make

needs_library = fails(ModuleNotFoundError("No module named 'sdk'"))
no_device = fails(RuntimeError("Found no NVIDIA driver.\\nPlease check"))
asserts = fails(AssertionError("Torch not compiled with CUDA enabled"))
key = fails(KeyError("state_dict"))
value = fails(ValueError("radius must be positive, got -1."))
on_purpose = fails(InputError("checkpoint must be a file, got a folder."))

class Empty:
    ndim, accepts = 3, frozenset({"points"})

class Good(Empty):
    def __init__(self, *, radius=1):
        self.radius = radius
    def encode(self, image): ...
    def segment(self, embedding, prompt): ...

class OneAxis(Good):
    axes = 3

class ListOfKinds(Good):
    accepts = ["points"]

class KindInTheConstructor(Good):
    def __init__(self):
        self.accepts = "points"
"""
NAMES = (
    *("needs_library", "no_device", "asserts", "key", "value", "on_purpose", "Empty", "Good"),
    *("OneAxis", "ListOfKinds", "KindInTheConstructor"),
)


@pytest.fixture(autouse=True)
def backends(install: Any) -> Path:
    points = {name.lower().replace("_", "-"): f"faulty_module:{name}" for name in NAMES}
    return install("faulty", {GROUPS["backend"]: points}, modules={"faulty_module": MODULE})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("needs-library", "ModuleNotFoundError: No module named 'sdk'"),
        ("no-device", "RuntimeError: Found no NVIDIA driver. Please check"),
        ("asserts", "AssertionError: Torch not compiled with CUDA enabled"),
        ("key", "KeyError: 'state_dict'"),
        ("empty", "must have ndim, accepts, encode, segment, got Empty without encode, segment"),
    ],
)
def test_a_broken_constructor_is_one_sentence_with_its_origin(name: str, words: str):
    with pytest.raises(BrokenPlugin) as caught:
        construct("backend", name)
    message = str(caught.value)
    assert message.startswith(f"backend '{name}' ") and words in message
    assert "of distribution faulty 1.2" in message and "\n" not in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "oneaxis",
            "the axes of backend 'oneaxis' must be a tuple of numbers, such as (3,), got 3",
        ),
        ("listofkinds", "must be a set of texts, such as frozenset({'points'}), got ['points']"),
        ("kindintheconstructor", "must be a set of texts, such as frozenset({'points'}), got 'po"),
    ],
)
def test_a_wrong_declaration_is_one_sentence(name: str, words: str):
    with pytest.raises(BrokenPlugin) as caught:
        construct("backend", name)
    assert words in str(caught.value)
    with pytest.raises(BrokenPlugin):
        construct("backend", f"geodesic+{name}")


def test_a_refused_option_and_an_error_on_purpose_are_no_broken_plugin():
    with pytest.raises(PluginError, match=r"'value' refuses its options: radius must .* got -1"):
        construct("backend", "value")
    with pytest.raises(InputError, match=r"^checkpoint must be a file, got a folder"):
        construct("backend", "on-purpose")


def test_options_reach_the_constructor():
    assert construct("backend", "good", (), {"radius": 4}).radius == 4
