"""The dataset of a folder, the labeled cases of a run, its network and the seed of its prompts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pictures import write_pictures
from scan_files import write_folder
from tiny_la import write_tiny_la
from tiny_runs import changed, settings_of

from semisam.core.errors import InputError, PluginError, SemisamWarning, UnservedHeads
from semisam.data.datasets.dataset import Split
from semisam.plugins.registry import GROUPS
from semisam.run.build import (
    choose_labeled,
    hold_validation,
    make_framework,
    open_dataset,
    recognise_dataset,
)

MODULE = """
class Any:
    @classmethod
    def recognises(cls, path): return True

class Crashes:
    @classmethod
    def recognises(cls, path): raise KeyError("train")

def factory(path): ...
"""


CASES = tuple(f"c{n:02}" for n in range(30))
SPLIT = Split(CASES, ("t0",))


def _draw(subset, labels=4, has_label=lambda case: True):
    return choose_labeled(SPLIT, labels, subset, has_label)


def test_subset_0_is_the_first_of_the_list():
    assert _draw(0) == (CASES[:4], CASES[4:])


def test_every_subset_is_a_draw_of_its_own():
    drawn = [frozenset(_draw(subset)[0]) for subset in range(6)]
    assert len(set(drawn)) == 6
    assert drawn == [frozenset(_draw(subset)[0]) for subset in range(6)], "and stays the same"


@pytest.mark.parametrize("subset", [0, 1, 5])
def test_more_labels_hold_the_fewer_and_every_case_is_used_once(subset):
    for labels in range(1, 8):
        labeled, unlabeled = _draw(subset, labels)
        assert labeled == _draw(subset, 8)[0][:labels]
        assert sorted((*labeled, *unlabeled)) == sorted(CASES)


def test_the_last_labeled_patients_validate_and_no_scan_of_theirs_trains():
    found = hold_validation(["a1", "b1", "c1"], ["a2", "c2", "d1"], 1, {})
    assert found == (("a1", "b1"), ("a2", "c2", "d1"), ("c1",))
    patients = {name: name[0] for name in ("a1", "a2", "b1", "c1", "c2", "d1")}
    found = hold_validation(["c1", "a1", "b1"], ["a2", "c2", "d1"], 2, patients)
    assert found == (("c1",), ("c2", "d1"), ("a1", "b1"))


def test_a_validation_without_a_labeled_case_to_train_is_refused():
    with pytest.raises(InputError, match="must leave labeled cases to train, got 2 of 2"):
        hold_validation(["a", "b"], ["c"], 2, {})
    with pytest.raises(InputError, match="must leave labeled patients to train, got 1 of 1"):
        hold_validation(["a1", "a2"], ["c"], 1, {"a1": "a", "a2": "a"})


@pytest.mark.parametrize("subset", [0, 3])
def test_cases_without_a_label_are_never_labeled(subset):
    drawn = set(CASES[::3])
    labeled, unlabeled = _draw(subset, 5, drawn.__contains__)
    assert set(labeled) <= drawn and set(CASES) - drawn <= set(unlabeled)
    with pytest.raises(InputError, match="that have a label, 10 of 30, got 11"):
        _draw(subset, 11, drawn.__contains__)
    with pytest.raises(InputError, match="training cases, 30, got 31"):
        _draw(subset, 31)


def test_the_prompts_have_the_seed_of_the_run_or_their_own(tiny_settings):
    settings = changed(tiny_settings, sam="geodesic", seed=7)
    assert make_framework(settings, 1, 2).seed == 7
    own = changed(settings, semisam_options={"seed": 3})
    assert make_framework(own, 1, 2).seed == 3


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


def test_a_folder_of_pictures_may_be_another_plugins(install: Any, tmp_path: Any):
    points = {"greedy": "greedy_module:Any"}
    install("greedy-dist", {GROUPS["dataset"]: points}, modules={"greedy_module": MODULE})
    with pytest.raises(InputError, match=r"which images and greedy recognises"):
        recognise_dataset(write_pictures(tmp_path / "pictures"))


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
    options = {"levels": 4}
    settings = settings_of(method="urpc", method_options=options, labels=1, network="vnet")
    with pytest.raises(UnservedHeads) as caught:
        make_framework(settings, 1, 2)
    message = str(caught.value)
    assert "must serve the heads of method 'urpc', got vnet: " in message
    assert "got logits_level4" in message and message.endswith("that serve them: unet.")


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


TEXTS = """
import torch
from semisam.core.types import Prompt

class Words:
    emits = frozenset({"text"})
    rounds = 1
    def __call__(self, view, rng):
        return Prompt(more={"text": view.class_name}) if (view.prob > 0.5).any() else None

class Reader:
    ndim = 3
    accepts = frozenset({"text"})
    def encode(self, image): return image[0]
    def segment(self, embedding, prompt):
        return embedding + len(prompt.more["text"])
"""


def test_a_prompter_and_a_backend_of_a_kind_of_their_own_find_each_other(install: Any):
    points = {
        GROUPS["prompter"]: {"words": "texts:Words"},
        GROUPS["backend"]: {"reads": "texts:Reader"},
    }
    install("text-dist", points, modules={"texts": TEXTS})
    chosen: dict[str, Any] = {"method": "mt", "labels": 1, "network": "vnet"}
    fitting = settings_of(**chosen, sam="reads", prompter="words")
    branch: Any = make_framework(fitting, 1, 2, ("background", "atrium"))
    image = torch.rand(1, 1, 4, 4, 4)
    found = branch.queries.of_maps(image, torch.cat([0.2 * image, 1 - 0.2 * image], 1), [1])
    want = (image[0, 0] + len("atrium")).sigmoid()
    torch.testing.assert_close(found[0, 1], want)
    with pytest.raises(PluginError) as caught:
        make_framework(settings_of(**chosen, sam="reads", prompter="box"), 1, 2)
    assert str(caught.value) == (
        "--prompter must make only prompts that backend 'reads' accepts (text), got box, which "
        "makes box. Prompters for this backend: words. Backends for this prompter: geodesic, "
        "medsam, sam, sam2, synthsam."
    )
    with pytest.raises(PluginError, match=r"Backends for this prompter: reads\.$"):
        make_framework(settings_of(**chosen, sam="geodesic", prompter="words"), 1, 2)


@pytest.mark.parametrize(("network", "patch"), [("vnet", (16, 16, 16)), ("unet2d", (16, 16))])
def test_a_width_of_0_is_one_sentence(network, patch):
    own = {"network": network, "network_options": {"filters": 0}, "patch": patch}
    settings = settings_of(method="mt", labels=1, **own)
    with pytest.raises(PluginError, match="refuses its options: filters must be at least 1, got 0"):
        make_framework(settings, 1, 2)
