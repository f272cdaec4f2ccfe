"""SAM, MedSAM and SAM 2 of random weights, from checkpoints on disk."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sam import SIDE
from torch.nn import functional

from semisam.backends._transformers import Frame
from semisam.backends.medsam import MedSAM, MedSamPictures
from semisam.backends.sam import Sam
from semisam.backends.sam2 import Sam2
from semisam.bench.clicks import interact
from semisam.core.errors import InputError, PluginError
from semisam.core.types import Prompt
from semisam.frameworks.queries import check_pair
from semisam.plugins import registry
from semisam.prompters.box import BoxPrompter
from semisam.prompters.uncertainty_points import UncertaintyPoints

SHAPE = (20, 28, 9)


@pytest.fixture
def sam(sam_checkpoints: dict[str, str]) -> Sam:
    return Sam(checkpoint=sam_checkpoints["sam"], propagate=False)


@pytest.fixture
def sam2(sam_checkpoints: dict[str, str]) -> Sam2:
    return Sam2(checkpoint=sam_checkpoints["sam2"], propagate=False)


def scan(*shape: int) -> torch.Tensor:
    return torch.randn(1, *(shape or SHAPE), generator=torch.Generator().manual_seed(1))


def clicks(*at: tuple[int, ...], labels: list[int]) -> Prompt:
    return Prompt(points=torch.tensor(at), labels=torch.tensor(labels))


@pytest.mark.parametrize("keep_aspect", [True, False])
@pytest.mark.parametrize("shape", [(20, 28), (28, 20), (64, 64), (130, 70)])
def test_a_voxel_lies_where_the_picture_shows_it(shape: tuple[int, int], keep_aspect: bool) -> None:
    frame = Frame.fit(shape, SIDE, keep_aspect)
    slices = torch.zeros(1, 3, *shape)
    at = torch.tensor([[shape[0] - 9, 7], [12, shape[1] - 6]])
    slices[0, 0, at[0, 0], at[0, 1]] = 1
    slices[0, 1, at[1, 0], at[1, 1]] = 1
    picture = frame.pad(frame.picture(slices, "bilinear"))[0]
    assert picture.shape == (3, SIDE, SIDE)
    down, right = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    for channel, (x, y) in enumerate(frame.points(at).tolist()):
        mass = picture[channel] / picture[channel].sum()
        assert float((mass * right).sum()) == pytest.approx(x, abs=0.3)
        assert float((mass * down).sum()) == pytest.approx(y, abs=0.3)


def test_boxes_and_masks_lie_where_the_picture_shows_them() -> None:
    frame = Frame.fit((16, 32), 64, keep_aspect=True)
    assert frame.filled == (32, 64)
    # Pixel edges of voxels 2..5 and 3..7, twice enlarged; a pixel's index is its centre.
    assert frame.box(torch.tensor([[2, 3], [6, 8]])).tolist() == [3.5, 5.5, 11.5, 15.5]
    prob = torch.zeros(16, 32)
    prob[4:12, 8:24] = 1
    low = frame.mask(prob, 16)
    assert low.shape == (16, 16)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:12, 2:6] = True  # rows are the second axis
    assert torch.equal(low > 0, inside)
    assert float(low.min()) == pytest.approx(-6.9, abs=0.01)
    back = frame.logits(low[None])[0]
    assert back.shape == (16, 32)
    wrong = (back > 0) != (prob > 0.5)
    assert int(wrong.sum()) <= 4 and not bool(wrong[5:11].any())  # corners are rounded


def test_sam_is_asked_as_transformers_asks_it(sam: Sam, sam_checkpoints: dict[str, str]) -> None:
    from transformers import SamModel

    model: Any = SamModel.from_pretrained(sam_checkpoints["sam"]).eval()
    image = scan(SIDE, 48, 3)
    embedding = sam.encode(image)
    asked = clicks((10, 40, 1), (50, 3, 1), labels=[1, 0])
    mine = sam.segment(embedding, asked)[..., 1]
    picture = torch.zeros(1, 3, SIDE, SIDE)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = (embedding.slices[1] - mean[:, None, None]) / std[:, None, None]
    picture[0, :, :48] = shown.transpose(1, 2)
    with torch.no_grad():
        theirs = model(
            pixel_values=picture,
            input_points=torch.tensor([[[[10.0, 40.0], [50.0, 3.0]]]]),
            input_labels=torch.tensor([[[1, 0]]]),
            multimask_output=False,
        ).pred_masks[0, 0]
    full = functional.interpolate(theirs[None], (SIDE, SIDE), mode="bilinear")[0, 0]
    assert torch.allclose(mine, full[:48].T, atol=1e-5)
    assert float(mine.std()) > 0.01


def test_sam2_is_asked_as_transformers_asks_it(sam2: Sam2, sam_checkpoints: dict[str, str]) -> None:
    from transformers import Sam2Model

    model: Any = Sam2Model.from_pretrained(sam_checkpoints["sam2"]).eval()
    embedding = sam2.encode(scan(SIDE, SIDE, 2))
    mine = sam2.segment(embedding, Prompt(box=torch.tensor([[10, 30, 0], [41, 60, 1]])))[..., 0]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = (embedding.slices[0] - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        theirs = model(
            pixel_values=shown.transpose(1, 2)[None],
            input_boxes=torch.tensor([[[9.5, 29.5, 40.5, 59.5]]]),
            multimask_output=False,
        ).pred_masks[0, 0]
    full = functional.interpolate(theirs[None], (SIDE, SIDE), mode="bilinear")[0, 0]
    assert torch.allclose(mine, full.T, atol=1e-4)
    assert float(mine.std()) > 0.1


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_many_slices_at_once_equal_one_by_one(
    name: str, sam_checkpoints: dict[str, str], request: pytest.FixtureRequest
) -> None:
    image = scan()
    # Unequal numbers of clicks, which no padding may blur.
    at = [(3, 4, 0), (9, 9, 0), (5, 20, 2), (15, 2, 3), (8, 8, 3), (4, 4, 3), (7, 25, 7)]
    prompt = clicks(*at, labels=[1, 0, 1, 1, 0, 1, 1])
    options = {"checkpoint": sam_checkpoints[name], "propagate": False}
    backends = [registry.load("backend", name)(batch=n, **options) for n in (1, 4)]
    one, many = (b.segment(b.encode(image), prompt) for b in backends)
    assert torch.allclose(one, many, atol=1e-4)
    for i in (0, 2, 3, 7):
        at_i = [n for n, p in enumerate(at) if p[2] == i]
        assert prompt.points is not None and prompt.labels is not None
        alone = Prompt(points=prompt.points[at_i], labels=prompt.labels[at_i])
        single = backends[0].segment(backends[0].encode(image), alone)
        assert torch.allclose(single[..., i], many[..., i], atol=1e-4)


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_every_part_of_a_prompt_counts(name: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(name)
    embedding = backend.encode(scan())
    mask = torch.zeros(SHAPE)
    mask[4:12, 6:18, 4] = 0.9
    one = torch.tensor([[6, 8, 4], [15, 20, 4]])
    box = torch.tensor([[4, 6, 4], [12, 18, 5]])
    prompts = [
        Prompt(points=one, labels=torch.tensor([1, 1])),
        Prompt(points=one, labels=torch.tensor([1, 0])),
        Prompt(points=one[:1], labels=torch.tensor([1])),
        Prompt(points=one, labels=torch.tensor([1, 0]), box=box),
        Prompt(points=one, labels=torch.tensor([1, 0]), box=box, mask=mask),
        Prompt(points=one, labels=torch.tensor([1, 0]), mask=mask),
        Prompt(box=box),
        Prompt(mask=mask),
        Prompt(box=box, mask=mask),
    ]
    answers = [backend.segment(embedding, p)[..., 4] for p in prompts]
    assert torch.allclose(answers[7], answers[8])  # a mask alone comes with its box
    for n, answer in enumerate(answers[:8]):
        for other in answers[:n]:
            assert float((answer - other).abs().max()) > 1e-4
    assert len(embedding.features) == 1


def test_a_lone_click_gets_the_best_of_three(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    module: Any = sam._model._module  # type: ignore[attr-defined]
    embedding = sam.encode(scan())
    forward = module.forward

    def watch(**inputs: Any) -> Any:
        asked.append(inputs["multimask_output"])
        out = forward(**inputs)
        if inputs["multimask_output"]:
            out.iou_scores[:] = torch.tensor([0.2, 0.9, 0.1])
            out.pred_masks[:, :, 1] = 3.0
        return out

    monkeypatch.setattr(module, "forward", watch)
    logits = sam.segment(embedding, clicks((5, 5, 2), labels=[1]))
    assert torch.allclose(logits[..., 2], torch.tensor(3.0))
    sam.segment(embedding, clicks((5, 5, 2), (6, 6, 2), labels=[1, 0]))
    sam.segment(embedding, Prompt(box=torch.tensor([[1, 1, 2], [9, 9, 3]])))
    assert asked == [True, False, False]


def test_medsam_sees_each_picture_from_0_to_1(sam_checkpoints: dict[str, str]) -> None:
    backend = MedSAM(checkpoint=sam_checkpoints["sam"])
    seen: list[torch.Tensor] = []
    features = MedSamPictures._features
    model = backend._model
    model._features = lambda pixels: (seen.append(pixels), features(model, pixels))[1]  # type: ignore[attr-defined,func-returns-value]
    image = scan()
    image[..., 4] *= 0.1
    backend.segment(backend.encode(image), Prompt(box=torch.tensor([[2, 3, 3], [9, 9, 5]])))
    (pixels,) = seen
    assert pixels.shape == (2, 3, SIDE, SIDE)  # stretched: nothing is padded
    for picture in pixels:
        assert float(picture.min()) == 0 and float(picture.max()) == 1


def test_medsam_is_asked_with_boxes_alone(sam_checkpoints: dict[str, str]) -> None:
    backend = MedSAM(checkpoint=sam_checkpoints["medsam"])
    check_pair(backend, BoxPrompter())
    with pytest.raises(PluginError, match=r"accepts \(box\), got UncertaintyPoints"):
        check_pair(backend, UncertaintyPoints())


def test_the_model_is_frozen_and_the_generator_left_alone(sam_checkpoints: dict[str, str]) -> None:
    state = torch.get_rng_state()
    module: Any = Sam2(checkpoint=sam_checkpoints["sam2"])._model._module  # type: ignore[attr-defined]
    assert torch.equal(state, torch.get_rng_state())
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_half_precision_of_a_training_does_not_reach_it(sam: Sam) -> None:
    embedding, prompt = sam.encode(scan()), clicks((5, 5, 2), labels=[1])
    plain = sam.segment(embedding, prompt)
    with torch.autocast("cpu", torch.bfloat16):
        trained = sam.segment(sam.encode(scan()), prompt)
    assert torch.equal(plain, trained)


def test_bf16_is_near(sam_checkpoints: dict[str, str], sam: Sam) -> None:
    half = Sam(checkpoint=sam_checkpoints["sam"], propagate=False, bf16=True)
    prompt = clicks((3, 4, 5), (12, 20, 5), labels=[1, 0])
    one, other = (b.segment(b.encode(scan()), prompt)[..., 5] for b in (sam, half))
    assert other.dtype == torch.float32 and not torch.equal(one, other)
    assert float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) > 0.7


def broken(sam_checkpoints: dict[str, str], folder: Path, name: str = "sam") -> Path:
    for file in Path(sam_checkpoints[name]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_checkpoint_of_another_model_is_refused(sam_checkpoints: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"must hold a model of type sam, got 'sam2'"):
        Sam(checkpoint=sam_checkpoints["sam2"])
    with pytest.raises(InputError, match=r"of type sam2 or sam2_video, got 'sam'"):
        Sam2(checkpoint=sam_checkpoints["sam"])


def test_a_checkpoint_without_some_weights_is_refused(
    sam_checkpoints: dict[str, str], tmp_path: Path
) -> None:
    path = broken(sam_checkpoints, tmp_path) / "model.safetensors"
    weights = load_file(path)
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"every weight of SamModel.*lacks 1.*iou_token"):
        Sam(checkpoint=str(tmp_path))
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="checkpoint must be"):
        Sam(checkpoint=str(tmp_path))


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.semisam_was_here = True",)


def test_no_code_of_a_checkpoint_runs(sam_checkpoints: dict[str, str], tmp_path: Path) -> None:
    folder = broken(sam_checkpoints, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "own.Own", "AutoConfig": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("import sys; sys.semisam_was_here = True\n")
    Sam(checkpoint=str(folder))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    Sam(checkpoint=str(folder))  # an old checkpoint of tensors alone is fine
    torch.save({**weights, "extra": Payload()}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(InputError, match="checkpoint must be"):
        Sam(checkpoint=str(folder))
    assert not hasattr(sys, "semisam_was_here")


def test_no_such_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    (tmp_path / "sam_vit_b.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"must be a directory.*which is a file"):
        Sam(checkpoint=str(tmp_path / "sam_vit_b.pth"))
    for name in (str(tmp_path / "none"), "./none", "none"):
        with pytest.raises(InputError, match=r"must be a directory.*which does not exist"):
            Sam(checkpoint=name)

    def offline(*args: Any) -> None:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", offline)
    with pytest.raises(InputError, match=r"got owner/model: OSError: We couldn't connect to the"):
        Sam(checkpoint="owner/model")


@pytest.mark.parametrize("name", ["sam", "medsam", "sam2"])
def test_without_transformers_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    backend = registry.load("backend", name)  # listing, checking and describing work without
    assert registry.describe_options("backend", name)[0].name == "checkpoint"
    with pytest.raises(PluginError, match=r"needs the package transformers.*pip install 'semisam"):
        backend()


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_zero_shot_shows_it_all_clicks_and_its_last_answer(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = request.getfixturevalue(name)
    prompts: list[Prompt] = []
    segment = backend.segment

    def spied(embedding: Any, prompt: Prompt) -> torch.Tensor:
        prompts.append(prompt)
        return segment(embedding, prompt)

    monkeypatch.setattr(backend, "segment", spied)
    truth = np.zeros(SHAPE, bool)
    truth[4:12, 6:18, 2:4] = True
    interact(backend, scan(), truth, [3], np.random.default_rng(0))
    assert [p.points is not None and len(p.points) for p in prompts] == [2, 4, 6]
    assert [p.mask is not None for p in prompts] == [False, True, True]
