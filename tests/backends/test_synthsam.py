import numpy as np
import pytest
import torch

from semisam.backends.synthsam import EMBEDDED, SynthSAM
from semisam.core.errors import InputError
from semisam.core.masks import deepness
from semisam.core.types import Prompt
from semisam.data.datasets.phantom import make_case
from semisam.testing import BackendContract

# What the embedded weights reached on this phantom, less a margin.
ONE_CLICK, BOX, MASK = 0.8, 0.75, 0.8


class TestContractOnTwoChannels(BackendContract):
    channels = 2

    def make(self) -> SynthSAM:
        return SynthSAM()


class TestContractWithFlips(BackendContract):
    def make(self) -> SynthSAM:
        return SynthSAM(flips=True)


class TestContractOnPictures(BackendContract):
    channels = 3

    def make(self) -> SynthSAM:
        model = SynthSAM(flips=True)
        model.ndim = 2
        return model


@pytest.fixture(scope="module")
def phantom():
    """A scan of odd sizes, its atrium and the deepest voxel of it."""
    image, label = make_case(0, 1)
    target = label == 1
    deepest = np.unravel_index(deepness(target).argmax(), target.shape)
    return torch.from_numpy(image)[None], torch.from_numpy(target), torch.tensor([deepest])


@pytest.fixture(scope="module")
def picture(phantom):
    """The slice of the scan with the most of the atrium, enlarged."""
    image, target, _ = phantom
    at = int(target.sum((0, 1)).argmax())
    parts = torch.stack([image[0, :, :, at], target[:, :, at].float()])[None]
    image, target = torch.nn.functional.interpolate(parts, scale_factor=2)[0]
    target = target > 0.5
    deepest = np.unravel_index(deepness(target.numpy()).argmax(), target.shape)
    return image[None], target, torch.tensor([deepest])


def dice(logits, target):
    answer = logits > 0
    return float(2 * (answer & target).sum() / (answer.sum() + target.sum()))


def predict(image, prompt, **options):
    backend = SynthSAM(**options)
    return backend.segment(backend.encode(image), prompt)


def around(target):
    inside = target.nonzero()
    return torch.stack([inside.amin(0), inside.amax(0) + 1])


def blurred(target):
    soft = torch.nn.functional.avg_pool3d(target[None, None].float(), 7, 1, padding=3)
    return soft[0, 0]


def test_one_click_finds_a_chamber(phantom):
    image, target, deepest = phantom
    prompt = Prompt(points=deepest, labels=torch.tensor([1]))
    assert dice(predict(image, prompt), target) > ONE_CLICK
    assert dice(predict(image, prompt, flips=True), target) > ONE_CLICK


def test_one_click_finds_the_chamber_of_a_picture(picture):
    image, target, deepest = picture
    prompt = Prompt(points=deepest, labels=torch.tensor([1]))
    assert dice(predict(image, prompt), target) > ONE_CLICK
    colours = image * torch.tensor([2.0, 1.0, 5.0])[:, None, None]
    assert torch.allclose(predict(colours, prompt), predict(image, prompt), atol=0.1)


def test_weights_are_for_one_number_of_axes(picture):
    image, *_ = picture
    assert SynthSAM(weights=str(EMBEDDED[2])).axes == (2,)
    with pytest.raises(InputError, match="with 3 spatial axes"):
        SynthSAM(weights=str(EMBEDDED[3])).encode(image)


def test_contrast_and_brightness_of_the_scan_do_not_matter(phantom):
    image, target, deepest = phantom
    prompt = Prompt(points=deepest, labels=torch.tensor([1]))
    assert torch.equal(predict(image * 8, prompt) > 0, predict(image, prompt) > 0)
    assert dice(predict(-300 * image + 1000, prompt), target) > ONE_CLICK


def test_a_box_or_a_mask_alone_is_enough(phantom):
    image, target, _ = phantom
    assert dice(predict(image, Prompt(box=around(target))), target) > BOX
    assert dice(predict(image, Prompt(mask=blurred(target))), target) > MASK


def test_another_structure_is_found_by_a_click_there(phantom):
    image, _, deepest = phantom
    label = torch.from_numpy(make_case(0, 1)[1])
    other = torch.tensor([np.unravel_index(deepness((label == 4).numpy()).argmax(), label.shape)])
    answer = predict(image, Prompt(points=other, labels=torch.tensor([1])))
    assert bool(answer[tuple(other[0])] > 0) and bool(answer[tuple(deepest[0])] < 0)
    assert dice(answer, label == 4) > 0.5


def test_a_click_is_obeyed_even_where_it_is_wrong(phantom):
    image, _, deepest = phantom
    at = tuple(deepest[0])
    beside = deepest + torch.tensor([[4, 0, 0]])
    prompt = Prompt(points=torch.cat([beside, deepest]), labels=torch.tensor([1, 0]))
    answer = predict(image, prompt)
    assert bool(answer[tuple(beside[0])] > 0) and bool(answer[at] < 0)


def test_a_negative_click_takes_away(phantom):
    image, target, deepest = phantom
    both = Prompt(points=deepest, labels=torch.tensor([1]))
    more = predict(image, both) > 0
    wrong = more & ~target
    at = torch.tensor([np.unravel_index(deepness(wrong.numpy()).argmax(), wrong.shape)])
    prompt = Prompt(points=torch.cat([deepest, at]), labels=torch.tensor([1, 0]))
    less = predict(image, prompt) > 0
    assert (less & wrong).sum() < wrong.sum()


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt(points=torch.empty(0, 3, dtype=torch.long), labels=torch.empty(0).long()),
        Prompt(points=torch.tensor([[9, 9, 9]]), labels=torch.tensor([0])),
    ],
)
def test_nothing_asked_is_nothing_found(phantom, prompt):
    answer = predict(phantom[0], prompt)
    assert answer.shape == phantom[0].shape[1:] and bool((answer < 0).all())


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 31, 5), (7, 64, 3)])
def test_any_shape(shape):
    prompt = Prompt(points=torch.zeros(1, 3, dtype=torch.long), labels=torch.tensor([1]))
    answer = predict(torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)), prompt)
    assert answer.shape == shape and bool(torch.isfinite(answer).all())


def test_not_a_number_in_the_scan_does_no_harm(phantom):
    image, _, deepest = phantom
    image = image.clone()
    image[0, 0, 0, 0], image[0, 0, 0, 1] = float("nan"), float("inf")
    answer = predict(image, Prompt(points=deepest, labels=torch.tensor([1])))
    assert bool(torch.isfinite(answer).all())


def test_the_same_inside_a_training_under_autocast(phantom):
    image, _, deepest = phantom
    wrong = deepest + torch.tensor([[0, 0, 0], [4, 0, 0], [0, 4, 0]])  # not followed by the network
    right = deepest - torch.tensor([[4, 0, 0]])
    prompt = Prompt(points=torch.cat([right, wrong]), labels=torch.tensor([1, 0, 0, 0]))
    plain = predict(image, prompt)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predict(image, prompt), plain)


def test_weights_are_small_and_shared():
    assert EMBEDDED[3].stat().st_size < 20e6 and EMBEDDED[2].stat().st_size < 5e6
    one, two = SynthSAM(), SynthSAM(flips=True)
    assert one._load(3, torch.device("cpu")) is two._load(3, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "image", "says"),
    [
        ({"weights": "missing.safetensors"}, torch.zeros(1, 8, 8, 8), "which is no file"),
        ({}, torch.zeros(1, 8), "spatial axes, got"),
    ],
)
def test_refuses_in_one_sentence(options, image, says):
    with pytest.raises(InputError, match=says):
        SynthSAM(**options).encode(image)
