"""Several promptable models as one."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import semisam
from semisam.backends.geodesic import Geodesic
from semisam.backends.synthsam import SynthSAM
from semisam.bench.papers import papers_of
from semisam.cli.main import main
from semisam.core.errors import InputError, PluginError
from semisam.core.types import Prompt
from semisam.data.images.files import Geometry, write_nifti
from semisam.plugins import registry
from semisam.plugins.construction import construct
from semisam.testing import BackendContract

BOTH = "synthsam+geodesic"
CPU = torch.device("cpu")

MODULE = """
import torch

class Flat:
    ndim = 3
    axes = (2,)
    accepts = frozenset({"box"})
    def encode(self, image): return image[0]
    def segment(self, embedding, prompt): return torch.zeros_like(embedding)

class Texts(Flat):
    axes = (2, 3)
    accepts = frozenset({"text"})

class Placed(Flat):
    axes = (2, 3)
    accepts = frozenset({"points", "mask"})
    wants_place = True
    def encode(self, image, place): return image[0] + (100 if place is not None else 0)
    def segment(self, embedding, prompt): return embedding
"""


@pytest.fixture
def others(install):
    """Backends of a third party: for pictures only, for texts only, and one that wants places."""
    points = {"flat": "others:Flat", "texts": "others:Texts", "a-placed": "others:Placed"}
    install("others", {"semisam.backends": points}, modules={"others": MODULE})


class TestContract(BackendContract):
    def make(self):
        return construct("backend", BOTH)


def _scene(seed=0, size=(28, 26, 22)):
    """Return an image ``(1, *S)`` with an organ, its label, and a click in it."""
    label = np.zeros(size, np.int64)
    label[6:18, 8:20, 5:15] = 1
    noise = np.random.default_rng(seed).standard_normal(size, np.float32)
    image = torch.from_numpy(noise + 0.8 * label.astype(np.float32))[None]
    click = Prompt(points=torch.tensor([[12, 14, 10]]), labels=torch.tensor([1]))
    return image, torch.from_numpy(label), click


def _probs(model, image, prompt):
    return model.segment(model.encode(image), prompt).sigmoid()


def test_the_prediction_is_the_mean_of_the_models():
    image, _, click = _scene()
    each = [_probs(model, image, click) for model in (SynthSAM(), Geodesic())]
    assert (each[0] - each[1]).abs().max() > 0.2  # a mean of equal maps would say nothing
    joined = _probs(construct("backend", BOTH), image, click)
    torch.testing.assert_close(joined, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)


def test_options_of_each_model_reach_it():
    image, _, click = _scene()
    options = registry.check_options("backend", BOTH, {"geodesic_radius": "5"})
    assert options == {"geodesic_radius": 5.0}
    small = _probs(construct("backend", BOTH, (), options), image, click)
    each = [_probs(model, image, click) for model in (SynthSAM(), Geodesic(radius=5.0))]
    torch.testing.assert_close(small, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)


def test_settings_hold_the_options_and_weights_of_all_models():
    chosen = semisam.settings(
        method="fixmatch", sam=BOTH, labels=2, options={"synthsam.flips": True}
    )
    single = semisam.settings(method="fixmatch", sam="synthsam", labels=2)
    assert chosen.sam_options["synthsam_flips"] is True
    assert chosen.sam_options["geodesic_radius"] == 20.0
    assert chosen.sam_sources == {"sam.synthsam.weights": single.sam_sources["sam.weights"]}
    assert chosen.sam_adapt == single.sam_adapt > 0
    assert chosen.choices == (f"{BOTH}.synthsam_flips=True",)


def test_a_protocol_prescribes_the_options_of_each_model(tmp_path):
    (tmp_path / "weights").touch()
    given = {"labels": 2, "options": {"sam-med3d.checkpoint": str(tmp_path / "weights")}}
    single = semisam.settings(sam="sam-med3d", **given).sam_options
    joined = semisam.settings(sam="geodesic+sam-med3d", **given)
    ours = {k.removeprefix("sam_med3d_"): v for k, v in joined.sam_options.items()}
    assert single.items() <= ours.items()
    assert not [text for text in joined.departures if "sam_med3d" in text]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("synthsam+geodesik", "did you mean geodesic"),
        ("synthsam+", r"joined by a plus, such as synthsam\+geodesic, got 'synthsam\+'"),
        ("synthsam+synthsam", "must be different plugins"),
        ("synthsam+none", "joined by a plus"),
        ("sam-med3d+flat", "must be for images of the same axes"),
    ],
)
def test_what_cannot_be_joined_is_one_sentence(others, name, reason):
    with pytest.raises(PluginError, match=reason):
        registry.load("backend", name)


def test_models_without_a_common_prompt_are_refused(others):
    with pytest.raises(PluginError, match="a kind of prompt in common, got geodesic"):
        construct("backend", "geodesic+texts")
    assert registry.prompt_kinds("backend", registry.load("backend", "geodesic+flat")) == {"box"}


def test_a_model_that_wants_the_place_gets_it(others):
    model = construct("backend", "a-placed+geodesic")
    assert model.wants_place and model.accepts == {"points", "mask"}
    image, _, click = _scene()
    with_place, without = (
        model.segment(model.encode(image, place), click).mean() for place in ("here", None)
    )
    assert with_place > without
    plugin = registry.find("backend", "a-placed+geodesic")
    assert not plugin.builtin and (plugin.distribution, plugin.version) == ("others", "1.2")


def test_a_plugin_of_that_name_comes_first(install):
    module = MODULE + "\nclass Own(Texts): pass\n"
    install("own", {"semisam.backends": {BOTH: "own_one:Own"}}, modules={"own_one": module})
    assert registry.load("backend", BOTH).__name__ == "Own"


def test_adapted_models_are_those_that_can_be(tmp_path):
    image, label, click = _scene(1)
    model = construct("backend", BOTH)
    seen: list[int] = []
    asked = {"steps": 3, "seed": 0, "device": CPU}
    file, again, alone = (tmp_path / name for name in ("a", "b", "c"))
    model.adapt([(image, label)], file, **asked, on_step=seen.append)
    model.adapt([(image, label)], again, **asked)
    SynthSAM().adapt([(image, label)], alone, **asked)
    assert seen == [1, 2, 3]
    assert file.read_bytes() == again.read_bytes()
    before = _probs(model, image, click)
    adapted = _probs(model.adapted(file), image, click)
    each = [_probs(each, image, click) for each in (SynthSAM().adapted(alone), Geodesic())]
    torch.testing.assert_close(adapted, (each[0] + each[1]) / 2, atol=1e-5, rtol=0)
    assert not torch.equal(adapted, before)
    assert torch.equal(before, _probs(model, image, click))  # the model itself did not change


def test_without_a_model_that_can_be_adapted_there_is_no_adaptation(others):
    assert semisam.settings(method="fixmatch", labels=2, sam="geodesic+a-placed").sam_adapt == 0
    with pytest.raises(InputError, match=r"--sam-adapt must be 0 for geodesic\+a-placed"):
        semisam.settings(labels=2, sam="geodesic+a-placed", sam_adapt=5)


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_damaged_weights_are_one_sentence(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="must be an archive"):
        construct("backend", BOTH).adapted(tmp_path / "a")


def _zip(path, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("0.safetensors", bytes(1 << 20))
    return bytearray(path.read_bytes())


def test_an_archive_that_is_packed_or_encrypted_is_one_sentence(tmp_path):
    path = tmp_path / "a"
    _zip(path, zipfile.ZIP_DEFLATED)  # a small file could hold any number of bytes
    with pytest.raises(InputError, match=r"must be an archive .*0\.safetensors is packed"):
        construct("backend", BOTH).adapted(path)
    raw = _zip(path)
    raw[6] |= 1  # the flag of encryption, at the part and in the table of contents
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"must be an archive .*encrypted"):
        construct("backend", BOTH).adapted(path)


@pytest.mark.usefixtures("in_process")
def test_a_study_compares_them_with_one_model(tiny_la, tmp_path):
    out = tmp_path / "runs"
    result = CliRunner().invoke(
        main,
        f"bench --data {tiny_la} --method copied-mask --labels 2 --sam geodesic,{BOTH} "
        f"--iterations 4 --patch 16x16x16 --device cpu --set geodesic.radius=6 --out {out}",
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(out / "results.csv").set_index("sam")
    assert rows.loc[BOTH, "sam_adapt"] == 2 and rows.loc["geodesic", "sam_adapt"] == 0
    assert set(pd.read_csv(out / "table.csv")["sam"]) == {"geodesic", BOTH}
    scan = tmp_path / "scan.nii.gz"
    write_nifti(scan, _scene()[0][0].numpy(), Geometry((1.0, 1.0, 1.0)))
    (run,) = out.glob(f"runs/copied-mask+{BOTH}-*")
    assert semisam.load(run).predict(scan).labelmap.any()  # with the weights that it keeps


def test_they_have_the_papers_of_each():
    keys = {paper.key for paper in papers_of("backend", "sam+sam2")}
    assert {"kirillov2023segment", "ravi2025sam2"} <= keys and "zhang2025semisamplus" in keys


def test_weights_for_several_models_are_not_written_as_one_file(tiny_la, tmp_path):
    command = ["adapt", "--data", str(tiny_la), "--labels", "2", "--sam", BOTH]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "a")])
    assert result.exit_code == 2
    assert "Adapt synthsam and geodesic each." in result.output.replace("\n", " ")
