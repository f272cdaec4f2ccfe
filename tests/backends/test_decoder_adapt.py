"""SAM-Med3D, SAM, MedSAM and SAM 2 adapted to labeled scans: their decoders learn the organ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semisam.backends import _decoder, _transformers
from semisam.backends._decoder import draw_prompt, load_decoder
from semisam.backends._slices import evenly
from semisam.backends.medsam import MedSAM
from semisam.backends.sam import Sam
from semisam.backends.sam2 import Sam2
from semisam.backends.sam_med3d import SamMed3D
from semisam.core.backend import Adaptable
from semisam.core.errors import InputError
from semisam.core.files import write_json
from semisam.core.types import Prompt
from tests.backends.test_sam_med3d import saved, tiny_net
from tests.tiny_sam import save_sam, save_sam2

CPU = torch.device("cpu")


def case(seed=0, value=1, size=(24, 22, 12)):
    """Return a scan with a bright organ, and its label."""
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.int64)
    label[6:16, 7:17, 3:9] = value
    noise = 0.3 * rng.standard_normal(size, np.float32)
    return torch.from_numpy(noise + 2 * (label > 0))[None].float(), torch.from_numpy(label)


@pytest.fixture(scope="module", params=["sam-med3d", "sam", "medsam", "sam2"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sam-med3d":
        return SamMed3D(checkpoint=str(saved(folder, tiny_net())), precision="fp32")
    pytest.importorskip("transformers")
    if request.param == "sam2":
        return Sam2(checkpoint=str(save_sam2(folder)))
    return {"sam": Sam, "medsam": MedSAM}[request.param](checkpoint=str(save_sam(folder)))


def adapted(model, path, *, steps, seed=0, cases=None):
    model.adapt(cases or [case(1), case(2)], path, steps=steps, seed=seed, device=CPU)
    return model.adapted(path)


def score(model):
    """Return the Dice of the organ's prediction for its box or for its middle and its mask."""
    image, label = case(3)
    if "box" in model.accepts:
        prompt = Prompt(box=torch.tensor([[6, 7, 3], [16, 17, 9]]))
    else:
        prompt = Prompt(torch.tensor([[11, 12, 6]]), torch.tensor([1]), mask=(label > 0).float())
    found = model.segment(model.encode(image), prompt) > 0
    return 2 * int((found & (label > 0)).sum()) / max(int(found.sum() + (label > 0).sum()), 1)


def test_it_learns_the_organ_and_leaves_the_model_as_it_was(model, tmp_path, monkeypatch):
    assert isinstance(model, Adaptable)
    monkeypatch.setattr(_decoder, "_RATE", 4e-3)  # a model with random weights needs more
    before = score(model)
    tuned = adapted(model, tmp_path / "a.safetensors", steps=260)
    assert score(model) == before
    assert score(tuned) > max(before, 0.6), before


def test_equal_arguments_give_equal_weights(model, tmp_path):
    # Draws of the caller's generator have no effect.
    files = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        files.append(tmp_path / f"{number}.safetensors")
        adapted(model, files[-1], steps=2, seed=seed)
    first, second, third = (file.read_bytes() for file in files)
    assert first == second
    assert first[-1000:] != third[-1000:]


def test_only_the_decoder_is_written(model, tmp_path):
    adapted(model, tmp_path / "a.safetensors", steps=1)
    net = model._net if isinstance(model, SamMed3D) else model._model._module
    decoder = sum(p.numel() for p in net.prompt_encoder.parameters())
    decoder += sum(p.numel() for p in net.mask_decoder.parameters())
    assert (tmp_path / "a.safetensors").stat().st_size < 2 * decoder + 100_000
    assert not any(p.requires_grad for p in net.parameters())


def test_files_of_another_model_are_refused(model, tmp_path):
    path = tmp_path / "a.safetensors"
    adapted(model, path, steps=1)
    with pytest.raises(InputError, match="same model that was adapted"):
        load_decoder(path, [torch.nn.Linear(2, 2)])
    write_json(path.with_suffix(".json"), {"sha256": "0" * 64})
    with pytest.raises(InputError, match="another digest than in"):
        model.adapted(path)
    path.with_suffix(".json").unlink()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="Adapt the model again"):
        model.adapted(path)


def test_cases_without_foreground_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="must have foreground"):
        adapted(model, tmp_path / "a.safetensors", steps=1, cases=[case(value=0)])
    assert not list(tmp_path.iterdir())


def test_an_adaptation_to_many_slices_keeps_a_bounded_number(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    model = Sam(checkpoint=str(save_sam(tmp_path)))
    monkeypatch.setattr(_transformers, "_MOST_SLICES", 5)
    kept = []

    def keep(parts, seen, *others, **options):
        kept.extend(seen)

    monkeypatch.setattr(_transformers, "adapt_decoder", keep)
    image, label = case(1)
    slices = [(image[..., k], label[..., k]) for k in range(3, 9) if label[..., k].any()] * 4
    model.adapt(slices, tmp_path / "a.safetensors", steps=1, seed=0, device=CPU)
    assert len(slices) > 5 and len(kept) == 5


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 5, [0, 1, 2]), (7, 3, [0, 3, 6]), (9, 1, [0]), (0, 4, [])],
)
def test_some_of_many_are_taken_evenly(count, most, expected):
    assert evenly(range(count), most) == expected


def test_an_organ_far_from_the_middle_of_a_large_scan_is_in_its_cube(tmp_path):
    model = SamMed3D(checkpoint=str(saved(tmp_path, tiny_net())), precision="fp32")
    side = 3 * model._net.size
    label = torch.zeros((side, 12, 12), dtype=torch.int64)
    label[-8:-2, 3:9, 3:9] = 2
    image = 2.0 * (label > 0).float()[None]
    asked = []
    model._query_of, query_of = None, model._query_of  # deepcopy keeps what an instance holds

    def watched(embedding, prompt):
        asked.append(embedding.shape)
        return query_of(embedding, prompt)

    model._query_of = watched
    adapted(model, tmp_path / "a.safetensors", steps=1, cases=[(image, label)])
    assert asked and all(max(shape) <= model._net.size for shape in asked)


@pytest.mark.parametrize("shape", [(20, 18), (16, 14, 10)])
def test_a_drawn_prompt_lies_about_at_the_organ(shape):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(4, 9) for _ in shape)] = True
    seen = set()
    for seed in range(40):
        prompt = draw_prompt(mask, {"points", "box", "mask"}, np.random.default_rng(seed))
        seen.add((prompt.points is None, prompt.box is None, prompt.mask is None))
        for corner in prompt.box if prompt.box is not None else ():
            assert bool(((corner >= 2) & (corner <= 11)).all())
        if prompt.points is not None:
            assert bool(((prompt.points >= 2) & (prompt.points < 11)).all())
            assert prompt.labels.tolist() == [1] * len(prompt.points) and len(prompt.points) <= 3
    assert len(seen) == 4


@pytest.mark.parametrize("place", [0, 9])
def test_a_single_voxel_at_the_border_gets_a_prompt(place):
    mask = np.zeros((10, 10, 10), bool)
    mask[place, place, place] = True
    for seed in range(10):
        prompt = draw_prompt(mask, {"points"}, np.random.default_rng(seed))
        assert len(prompt.points) >= 1
