"""Rows that train nothing: copied masks and the ball at the centre, bare and answered by SAM."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_runs import settings_of

from semisam.bench.executors.runs import kept
from semisam.bench.grid import Run
from semisam.core.errors import InputError, UnservedHeads
from semisam.core.layout import ADAPTED
from semisam.core.types import IGNORE
from semisam.data.loading.store import VolumeStore
from semisam.frameworks.center_ball import CenterBall
from semisam.frameworks.copied_mask import CopiedMask, best_shift
from semisam.frameworks.semisam import SemiSAM
from semisam.inference.evaluation import evaluate, summarise
from semisam.prompters.center_points import CenterPoints
from semisam.run.build import make_framework
from semisam.run.execute import execute
from semisam.run.model import export_run, load, load_run
from semisam.run.scoring import open_scored
from semisam.testing import FakeBackend


def _scan(corner, size=(40, 36, 30), value=1):
    """Return an image of a bright box on a gradient, and its label."""
    image = torch.linspace(0, 0.3, size[0]).view(-1, 1, 1).expand(size).clone()
    label = torch.zeros(size, dtype=torch.int64)
    box = tuple(slice(c, c + 10) for c in corner)
    image[box] += 1.0
    label[box] = value
    return image[None], label


def _dice(found, label, k=1):
    mask = found == k
    return 2 * int((mask & (label == k)).sum()) / int(mask.sum() + (label == k).sum())


def test_a_mask_is_copied_to_where_the_images_agree():
    source, target = _scan((6, 8, 6)), _scan((15, 15, 12))
    for shift, low, high in ((True, 0.75, 1.0), (False, 0.0, 0.3)):
        method = CopiedMask(None, 2, shift=shift)
        method.learn([source])
        probs = method(target[0][None])
        torch.testing.assert_close(probs.sum(1), torch.ones(1, 40, 36, 30))
        assert low <= _dice(probs[0].argmax(0), target[1]) <= high


def test_masks_are_copied_to_the_device_of_the_image():
    method = CopiedMask(None, 2, shift=False)
    method.learn([_scan((10, 10, 10))])
    assert method(torch.zeros(1, 1, 8, 8, 8, device="meta")).is_meta


def test_a_mask_is_stretched_onto_a_scan_of_another_size():
    method = CopiedMask(None, 2, shift=False)
    method.learn([_scan((10, 10, 10))])
    big = method(torch.zeros(1, 1, 80, 72, 60))[0].argmax(0)
    label = torch.zeros(80, 72, 60, dtype=torch.int64)
    label[20:40, 20:40, 20:40] = 1
    assert _dice(big, label) > 0.9


def test_several_masks_are_averaged():
    one, other = _scan((10, 10, 10)), _scan((10, 10, 10), value=2)
    method = CopiedMask(None, 4)
    method.learn([one, other])
    probs = method(one[0][None])
    assert probs.shape == (1, 4, 40, 36, 30)
    assert float(probs[0, 1:3].amax()) == pytest.approx(0.5, abs=0.05)
    assert float(probs[0, 3].max()) == 0


def test_between_annotated_slices_a_mask_is_filled():
    """Until they were, unknown voxels voted for the background, and every copy was empty."""
    (image, label), target = _scan((6, 8, 6)), _scan((15, 15, 12))
    part = torch.full_like(label, IGNORE)
    slices = [3, 7, 10, 14, 18]
    part[..., slices] = label[..., slices]
    method = CopiedMask(None, 2)
    method.learn([(image, part)] * 2)
    assert _dice(method(target[0][None])[0].argmax(0), target[1]) > 0.75
    part[..., [3, 18]] = IGNORE  # beyond the outer slices nothing is known, and nothing is found
    method.learn([(image, part)])
    found = method(image[None])[0].argmax(0)
    assert bool(found[..., 7:15].any()) and not bool(found[..., :6].any())
    assert not bool(found[..., 16:].any())
    method.learn([(image, torch.full_like(label, IGNORE))])
    assert not bool(method(image[None])[0].argmax(0).any())


@pytest.mark.parametrize("by", [(3, -2, 0), (0, 5, -6), (-4, 0)])
def test_the_best_shift_is_found(by):
    torch.manual_seed(0)
    axes = tuple(range(2, 2 + len(by)))
    fixed = torch.zeros(1, 1, *[24] * len(by))
    fixed[(0, 0, *[slice(8, 14)] * len(by))] = torch.rand([6] * len(by))
    moving = fixed.roll([-s for s in by], axes)
    assert best_shift(fixed - fixed.mean(), moving - moving.mean()) == list(by)


@pytest.mark.parametrize("size", [(20, 16, 12), (20, 16)])
def test_the_ball_is_at_the_centre(size):
    probs = CenterBall(None, 2, radius=0.3)(torch.zeros(2, 1, *size))
    assert probs.shape == (2, 2, *size)
    inside = (probs[0, 1] > 0.5).nonzero().float()
    torch.testing.assert_close(inside.mean(0), torch.tensor(size) / 2 - 0.5)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, *size))


@pytest.mark.parametrize("thin", [1, 2, 4, 6])
def test_a_ball_in_few_slices_is_in_the_middle_ones(thin):
    probs = CenterBall(None, 2)(torch.zeros(1, 1, 40, 40, thin))
    inside = (probs[0, 1] > 0.5).nonzero()
    assert len(inside) >= 40
    assert set(inside[:, 2].tolist()) == {(thin - 1) // 2, thin // 2}


def test_a_radius_out_of_range_is_refused():
    with pytest.raises(ValueError, match="radius must be"):
        CenterBall(None, 2, radius=0)


def test_a_ball_is_of_one_class():
    said = r"center-ball must have one foreground class, got 2\. Leave it out\."
    with pytest.raises(ValueError, match=said):
        CenterBall(None, 3)
    with pytest.raises(UnservedHeads, match=said):  # so a grid loses only its row
        make_framework(settings_of(method="center-ball", labels=1), 1, 3)


def test_the_model_answers_the_proposal():
    bare = CenterBall(None, 2)
    branch = SemiSAM(bare, FakeBackend(), CenterPoints(points=3, max_uncertainty=1.0))
    assert not branch.trains
    image = torch.rand(1, 1, 16, 16, 16)
    found = branch(image)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 16, 16, 16))
    assert not torch.equal(found, bare(image))


@pytest.mark.parametrize("method", ["copied-mask", "center-ball"])
@pytest.mark.parametrize("sam", ["none", "geodesic"])
def test_a_run_is_scored_without_a_step(tmp_path, method, sam):
    settings = settings_of(
        method=method, sam=sam, labels=2, iterations=5, patch=(16, 16, 16), device="cpu",
        dataset_options={"cases": 4, "test_cases": 1, "size": 32},
    )  # fmt: skip
    result = json.loads(execute(settings, tmp_path).read_text())
    assert 0 <= result["metrics"]["dice"] <= 1 and result["cost"]["train_seconds"] == 0
    assert not (tmp_path / "train.jsonl").exists()
    scored = open_scored(str(tmp_path), "cpu")
    store = VolumeStore(scored.dataset, labeled=[], unlabeled=[], test=scored.test)
    rows = evaluate(
        scored.model, store, scored.test, scored.patch, scored.stride,
        device=torch.device("cpu"), precision=scored.precision,
        one_component=scored.one_component,
    )  # fmt: skip
    assert summarise(rows)["dice"] == result["metrics"]["dice"]
    with pytest.raises(InputError, match="must hold a trained network"):
        export_run(tmp_path, tmp_path / "model.pt2")


def test_a_run_without_a_step_predicts_with_its_adapted_model(tmp_path):
    given = {
        "method": "copied-mask", "sam": "synthsam", "labels": 1, "test": "none", "device": "cpu",
        "dataset_options": {"cases": 2, "test_cases": 0, "size": 32},
    }  # fmt: skip
    found = []
    for steps in (0, 1):
        run = tmp_path / f"{steps}"
        execute(settings_of(**given, sam_adapt=steps), run)
        kept(Run(settings_of(**given, sam_adapt=steps), "one"), run)  # as a second bench does
        assert (run / ADAPTED).is_file() == (steps == 1)
        framework = load_run(run)[1]
        assert framework.inner.images.shape == (1, 1, 64, 64, 64)
        image = np.random.default_rng(0).normal(size=(32, 32, 24))
        found.append(load(run, "cpu").predict(image).probabilities)
    assert found[0].shape == (2, 32, 32, 24) and not np.array_equal(*found)
