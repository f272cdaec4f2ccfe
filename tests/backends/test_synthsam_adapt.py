"""SynthSAM adapted to labeled scans."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from semisam.backends._synthsam.adapt import draw_crop, organs_of
from semisam.backends.synthsam import SynthSAM
from semisam.core.backend import Adaptable
from semisam.core.errors import InputError
from semisam.core.types import Prompt

CPU = torch.device("cpu")


def _case(seed=0, value=1, size=(28, 26, 22)):
    """Return an image in which nothing but a faint texture shows the organ, and its label."""
    rng = np.random.default_rng(seed)
    label = np.zeros(size, np.int64)
    label[6:18, 8:20, 5:15] = value
    noise = rng.standard_normal(size, np.float32)
    image = torch.from_numpy(noise + 0.8 * (label > 0).astype(np.float32))
    return image[None], torch.from_numpy(label)


def _adapt(path, *, steps=12, seed=0, cases=None):
    model = SynthSAM()
    model.adapt(cases or [_case(1), _case(2)], path, steps=steps, seed=seed, device=CPU)
    return model.adapted(path)


def test_it_is_adaptable():
    assert isinstance(SynthSAM(), Adaptable)


def test_adapting_improves_the_answer_on_another_scan(tmp_path):
    image, label = _case(3)
    prompt = Prompt(points=torch.tensor([[12, 14, 10]]), labels=torch.tensor([1]))

    def score(model):
        found = model.segment(model.encode(image), prompt) > 0
        return 2 * int((found & (label > 0)).sum()) / int(found.sum() + (label > 0).sum())

    before, after = score(SynthSAM()), score(_adapt(tmp_path / "a.safetensors", steps=25))
    assert after > before + 0.02, (before, after)


def test_equal_arguments_give_equal_weights(tmp_path):
    # Draws of the caller's generator have no effect.
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        torch.manual_seed(int(path.name[0] == "b"))
        _adapt(path, steps=2, seed=seed)
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second
    assert first[-1000:] != third[-1000:]


def test_options_stay(tmp_path):
    path = tmp_path / "a.safetensors"
    model = SynthSAM(flips=True)
    model.adapt([_case()], path, steps=1, seed=0, device=CPU)
    assert model.adapted(path).flips


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    path, image = tmp_path / "a.safetensors", _case(3)[0]
    before = _adapt(path, steps=1, seed=0)
    prompt = Prompt(points=torch.tensor([[12, 14, 10]]), labels=torch.tensor([1]))
    first = before.segment(before.encode(image), prompt)
    os.utime(path, ns=(0, 0))
    after = _adapt(path, steps=1, seed=1)
    assert not torch.equal(first, after.segment(after.encode(image), prompt))


def test_cases_without_foreground_are_refused(tmp_path):
    with pytest.raises(InputError, match="must have foreground"):
        _adapt(tmp_path / "a.safetensors", cases=[_case(value=0)])
    assert not list(tmp_path.iterdir())


def test_a_crop_shows_one_class_of_any_scan():
    image, label = _case()
    label[20:23, 2:5, 2:5] = 2  # a tiny second class
    organs = organs_of([(image[0], label)])
    assert len(organs) == 2
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for _ in range(60):
        view, mask = draw_crop(organs, (16, 16, 16), rng)
        assert view.shape == mask.shape == (16, 16, 16) and bool(mask.any())
        assert abs(float(view.mean())) < 1e-4 and float(view.std()) == pytest.approx(1, abs=1e-3)
