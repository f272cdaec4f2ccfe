import argparse
import collections
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_sam_med3d import plain_encode, plain_window
from torch.nn import functional as F

from semisam.backends._cube import cube_around, resample, scaled_shape
from semisam.backends._sam_med3d import network
from semisam.backends._sam_med3d.encoder import WindowAttention
from semisam.backends._sam_med3d.network import SamMed3DNet, from_published, load_published
from semisam.backends.sam_med3d import SamMed3D
from semisam.bench.clicks import interact
from semisam.core.errors import InputError
from semisam.core.types import Clock, Prompt
from semisam.frameworks.semisam import SemiSAM
from semisam.plugins import registry
from semisam.prompters.mask_points import MaskAndPoints
from semisam.prompters.uncertainty_points import UncertaintyPoints
from semisam.run.build import make_pair
from semisam.run.resolve import make_settings
from semisam.testing import BackendContract, random_batch, tiny_builder

CASES = ("one_point", "three_points_mask", "two_points_multimask")


def tiny_net(*, patch=8, grid=4, windows=(7, 4, 7), width=48, seed=0, spread=0.3) -> SamMed3DNet:
    """A small SAM-Med3D of random weights; ``spread`` of 1 makes attention peak."""
    net = SamMed3DNet(
        network.ImageEncoder(
            width=32, heads=2, hidden=64, out=width, patch=patch, grid=grid, windows=windows
        ),
        network.PromptEncoder(width=width, hidden=16, grid=grid, size=grid * patch),
        network.MaskDecoder(width=width, inner=width // 2, hidden=64, quality_hidden=32),
    )
    rng = torch.Generator().manual_seed(seed)
    for parameter in (*net.parameters(), *net.buffers()):
        parameter.data = spread * torch.randn(parameter.shape, generator=rng)
    return net.eval().requires_grad_(False)


def saved(folder, net, **beside):
    """A checkpoint file as the published trainer writes it."""
    path = folder / "sam_med3d_tiny.pth"
    content = {
        "epoch": 3,
        "model_state_dict": net.state_dict(),
        "lr_scheduler_state_dict": {"milestones": collections.Counter({120: 1, 180: 1})},
        "args": argparse.Namespace(task_name="union_train", gpu_ids=[0, 1]),
        "used_datas": ["a folder"],
        **beside,
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("tiny"), tiny_net())


@pytest.fixture
def backend(checkpoint) -> SamMed3D:
    return SamMed3D(checkpoint=str(checkpoint), precision="fp32")


class TestContract(BackendContract):
    trained = False

    @pytest.fixture(autouse=True)
    def _file(self, checkpoint):
        self.options = {"checkpoint": str(checkpoint)}

    def make(self):
        return registry.load("backend", "sam-med3d")(**self.options)


class TestContractResampled(TestContract):
    channels = 2

    def make(self):
        return SamMed3D(**self.options, voxel_spacing=(0.9, 1.5, 2.5))


class TestContractOfThePapersWay(TestContract):
    def make(self):
        return SamMed3D(**self.options, resample=False, normalise=False, precision="bf16")


class TestContractOnImagesLargerThanTheCube(TestContract):
    def make(self):
        backend = SamMed3D(**self.options, voxel_spacing=(6.0, 4.0, 1.5))
        assert max(scaled_shape(self.shape, (6.0, 4.0, 1.5), 1.5)) > 32
        return backend


# --- the network


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).resolve().parents[3] / "shared" / "goldens" / "sam_med3d_tiny.npz"
    if not path.is_file():
        pytest.skip("the reference data beside the checkout is not there")
    arrays = np.load(path)
    held = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    prefix = "state_dict/"
    state = {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}
    return from_published(state), held


def test_encoder_is_the_published_one(golden):
    net, held = golden
    assert {block.attn.window for block in net.image_encoder.blocks} == {14, 4}
    torch.testing.assert_close(
        net.encode(held["image"]), held["image_embeddings"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        net.prompt_encoder.grid_encoding(), held["dense_pe"], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("case", CASES)
def test_prompts_and_masks_are_the_published_ones(golden, case):
    net, held = golden
    points, labels = held[f"{case}/point_coords"], held[f"{case}/point_labels"]
    mask = held.get(f"{case}/mask_input")
    tokens, dense = net.prompt_encoder(points, labels, mask)
    torch.testing.assert_close(tokens, held[f"{case}/sparse_embeddings"], atol=1e-5, rtol=0)
    masks, quality = net.mask_decoder(
        held["image_embeddings"], held["dense_pe"], tokens, dense, several="multi" in case
    )
    torch.testing.assert_close(masks, held[f"{case}/low_res_masks"], atol=1e-4, rtol=0)
    torch.testing.assert_close(quality, held[f"{case}/iou_pred"], atol=1e-4, rtol=0)
    if "multi" not in case:
        whole = net.decode(net.encode(held["image"]), points, labels, mask)
        torch.testing.assert_close(whole, held[f"{case}/low_res_masks"], atol=1e-4, rtol=0)


def test_published_size_has_the_published_keys(shared):
    shapes = json.loads(
        (shared / "goldens" / "sam_med3d_vit_b_ori_state_dict_shapes.json").read_text()
    )
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        net = network._skeleton(state)
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == shapes
    assert (net.size, net.coarse, net.image_encoder.blocks[0].attn.heads) == (128, 32, 12)


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("grid", "window"), [(4, 7), (3, 8), (4, 5), (4, 4)])
def test_folded_padding_is_the_padded_window(grid, window, spread):
    attention = WindowAttention(24, 2, grid=grid, window=window).double().requires_grad_(False)
    rng = torch.Generator().manual_seed(1)
    for parameter in attention.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=rng).double()
    x = torch.randn(2, grid, grid, grid, 24, generator=rng).double()
    # float64 tells an identity from a near miss, also where the softmax peaks.
    torch.testing.assert_close(attention(x), plain_window(attention, x), atol=1e-9, rtol=1e-9)


def test_encoder_is_the_plain_one():
    net = tiny_net(windows=(7, 4, 7), seed=1)
    image = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        net.encode(image), plain_encode(net.image_encoder, image), atol=1e-4, rtol=0
    )


def test_every_position_term_matters():
    net = tiny_net(seed=3)
    image = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(4))
    before = plain_encode(net.image_encoder, image)
    for axis in "dhw":
        other = tiny_net(seed=3)
        getattr(other.image_encoder.blocks[0].attn, f"rel_pos_{axis}").data *= -1
        moved = plain_encode(other.image_encoder, image)
        assert float((moved - before).abs().max()) > 5e-3
        torch.testing.assert_close(other.encode(image), moved, atol=1e-4, rtol=1e-4)


def test_decoder_reads_many_prompts_of_one_image():
    net = tiny_net(seed=5)
    rng = torch.Generator().manual_seed(6)
    embedding = net.encode(torch.randn(1, 1, 32, 32, 32, generator=rng))
    points = torch.randint(0, 32, (3, 2, 3), generator=rng)
    labels = torch.tensor([[1, 0], [1, 1], [0, 0]])
    together = net.decode(embedding, points, labels, None)
    alone = [
        net.decode(embedding, p[None], s[None], None) for p, s in zip(points, labels, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


# --- checkpoints


def test_a_checkpoint_as_published_opens_frozen(checkpoint):
    net = load_published(checkpoint)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    for name, value in tiny_net().state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_parallel_prefix_is_dropped(tmp_path):
    net = tiny_net()
    state = {f"module.{key}": value for key, value in net.state_dict().items()}
    path = saved(tmp_path, net, model_state_dict=state)
    assert load_published(path).size == 32


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_what_could_execute_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    path = saved(tmp_path, tiny_net(), epoch=_Hostile(trace))
    _refused(path, "weights_only")
    assert not trace.exists()


def test_broken_files_are_refused(tmp_path, checkpoint):
    whole = checkpoint.read_bytes()
    for name, content in (
        ("short", whole[: len(whole) // 2]),
        ("empty", b""),
        ("text", b"<html>not found</html>"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        _refused(path, "truncated")
    _refused(tmp_path / "nothing there", "which is no file")


def test_other_contents_are_refused(tmp_path):
    net = tiny_net()
    state = net.state_dict()
    key = "image_encoder.blocks.1.mlp.lin2.weight"
    for wrong, words in (
        ({"model_state_dict": {"block_one.conv.0.weight": torch.zeros(2)}}, "another network"),
        ({"model_state_dict": {}}, "another network"),
        ({"model_state_dict": {**state, key: state[key].T[:, :9]}}, key),
        ({"model_state_dict": {k: v for k, v in state.items() if k != key}}, "missing"),
        ({"model_state_dict": {**state, "surplus": torch.zeros(1)}}, "surplus"),
        ({"model_state_dict": {**state, key: state[key] / 0}}, "finite"),
        ({"model_state_dict": {**state, key: "text"}}, "something else"),
        ([1, 2], "something else"),
    ):
        path = tmp_path / "wrong.pth"
        torch.save(wrong, path)
        _refused(path, words)


def _refused(path, words):
    with pytest.raises(InputError, match=words) as caught:
        SamMed3D(checkpoint=str(path)) if path.exists() else load_published(path)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)


# --- the adapter


def scan(shape, seed=0):
    """A scan of positive intensities with an empty margin."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, *shape)
    inner = (slice(None), *(slice(2, n - 2) for n in shape))
    image[inner] = 50 + 10 * torch.randn(image[inner].shape, generator=rng)
    return image


def click(*at, labels=None):
    return Prompt(points=torch.tensor(at), labels=torch.tensor(labels or [1] * len(at)))


def test_normalised_over_the_foreground_as_trained(backend):
    image = scan((32, 32, 32))
    inside = image[image > 0]
    expected = (image - inside.mean()) / inside.std()
    torch.testing.assert_close(
        next(iter(backend.encode(image).features.values())), backend._net.encode(expected[None])
    )


def test_a_normalised_scan_is_encoded_like_the_raw_one(backend):
    image = scan((28, 30, 32))
    scaled = (image - image.mean()) / image.std()
    prompt = click((10, 12, 14))
    torch.testing.assert_close(
        backend.segment(backend.encode(scaled), prompt),
        backend.segment(backend.encode(image), prompt),
        atol=1e-3,
        rtol=1e-3,
    )


def test_the_papers_way_is_the_patch_padded_with_zeros(checkpoint):
    backend = SamMed3D(
        checkpoint=str(checkpoint),
        voxel_spacing=(0.6, 0.6, 0.6),
        resample=False,
        normalise=False,
        precision="fp32",
    )
    image = torch.randn(1, 27, 32, 20, generator=torch.Generator().manual_seed(1))
    net = load_published(checkpoint)
    whole = F.pad(image, (6, 6, 0, 0, 3, 2))
    features = net.encode(whole[None])
    points = torch.tensor([[5, 6, 7], [20, 1, 19]])
    logits = net.decode(
        features,
        (points + torch.tensor([3, 0, 6]))[None],
        torch.tensor([[1, 0]]),
        torch.zeros(1, 1, 16, 16, 16),
    )
    expected = F.interpolate(logits, scale_factor=2, mode="trilinear")[0, 0, 3:30, :, 6:26]
    answer = backend.segment(backend.encode(image), click(*points.tolist(), labels=[1, 0]))
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)


def test_what_lies_on_the_image_comes_back_from_the_cube():
    shape, spacing = (40, 30, 17), (0.75, 1.5, 2.4)
    axes = torch.meshgrid(*(torch.arange(n).float() for n in shape), indexing="ij")
    centre = (22, 13, 8)
    apart = sum(((a - c) * mm) ** 2 for a, c, mm in zip(axes, centre, spacing, strict=True)).sqrt()
    ball = 8.0 - apart
    scaled = scaled_shape(shape, spacing, 1.5)
    assert scaled == (20, 30, 27)
    cube = cube_around(shape, scaled, 32, centre)
    there = cube.cut(resample(ball, scaled), -99.0)
    assert there.shape == (32, 32, 32)
    back = cube.place(there, -99.0)
    assert back.shape == shape and float((back - ball).abs().mean()) < 0.1
    at, inside = cube.locate(torch.tensor([centre, (0, 0, 0), (39, 29, 16)]))
    assert bool(inside.all())
    assert torch.allclose(
        at[0], torch.tensor(np.unravel_index(int(there.argmax()), there.shape)).float(), atol=1
    )


def test_an_image_larger_than_the_cube_is_seen_around_the_first_positive_click(backend):
    image = scan((80, 30, 32))
    embedding = backend.encode(image)
    assert not embedding.features
    first = backend.segment(embedding, click((5, 5, 5)))
    outside = float(first.min())
    assert bool((first[33:] == outside).all()) and not bool((first[:32] == outside).all())
    last = backend.segment(embedding, click((9, 9, 9), (70, 8, 9), labels=[0, 1]))
    assert bool((last[:47] == outside).all()) and len(embedding.features) == 2
    assert torch.equal(backend.segment(embedding, click((5, 5, 5))), first)
    mask = torch.zeros(80, 30, 32)
    mask[70:] = 1
    assert bool((backend.segment(embedding, Prompt(mask=mask))[:47] == outside).all())


def test_prompts_of_several_images_are_answered_together(backend):
    embeddings = [backend.encode(scan(s, i)) for i, s in enumerate([(32, 30, 20), (50, 32, 9)])]
    asked = [
        (0, click((5, 6, 7))),
        (1, click((5, 6, 7), (44, 30, 2), labels=[1, 0])),
        (0, Prompt(mask=torch.full((32, 30, 20), 0.7))),
        (1, click((40, 6, 7))),
        (0, Prompt()),
        (0, click((9, 9, 9), (3, 2, 1), labels=[0, 1])),
    ]
    together = backend.segment_all([embeddings[i] for i, _ in asked], [p for _, p in asked])
    for (i, prompt), answer in zip(asked, together, strict=True):
        alone = backend.segment(embeddings[i], prompt)
        torch.testing.assert_close(answer, alone, atol=1e-4, rtol=1e-4)
    assert bool((together[4] < 0).all())


def test_an_undecided_mask_is_an_empty_previous_answer(backend):
    embedding = backend.encode(scan((32, 32, 32)))
    at = click((8, 9, 10))
    undecided = Prompt(at.points, at.labels, mask=torch.full((32, 32, 32), 0.5))
    decided = Prompt(at.points, at.labels, mask=torch.full((32, 32, 32), 0.99))
    torch.testing.assert_close(
        backend.segment(embedding, at), backend.segment(embedding, undecided)
    )
    moved = backend.segment(embedding, decided) - backend.segment(embedding, at)
    assert float(moved.abs().max()) > 1e-2


def test_its_last_prediction_returns_as_the_coarse_logits_of_the_network(backend):
    """Published: the decoder's own logits, neither clamped nor resampled."""
    net = backend._net
    embedding = backend.encode(scan((32, 32, 32)))
    (features,) = embedding.features.values()
    one, two = torch.tensor([[[8, 9, 10]]]), torch.tensor([[[20, 9, 11]]])
    yes, no = torch.tensor([[1]]), torch.tensor([[0]])
    first = net.decode(features, one, yes, torch.zeros(1, 1, 16, 16, 16))
    second = net.decode(features, two, no, first)
    third = net.decode(features, one, yes, second)
    mask = None
    for (points, labels), want in zip(
        ((one, yes), (two, no), (one, yes)), (first, second, third), strict=True
    ):
        answer = backend.segment(embedding, Prompt(points[0], labels[0], mask=mask))
        torch.testing.assert_close(answer, resample(want[0, 0], 3 * (32,)), atol=1e-5, rtol=1e-5)
        mask = answer.sigmoid()
    # A mask of other values is a mask of its own.
    blurred = Prompt(one[0], yes[0], mask=mask.clamp(0.3, 0.7))
    assert float((backend.segment(embedding, blurred) - answer).abs().max()) > 1e-3


def test_in_the_branch_a_later_round_starts_from_the_coarse_logits(backend, monkeypatch):
    asked = []
    decode = backend._net.decode

    def spied(features, points, labels, mask):
        asked.append((mask, decode(features, points, labels, mask)))
        return asked[-1][1]

    monkeypatch.setattr(backend._net, "decode", spied)
    torch.manual_seed(0)
    inner = registry.load("framework", "mt")(tiny_builder(norm="none"), 2)
    prompter = MaskAndPoints(rounds=2, max_uncertainty=1.0)
    branch = SemiSAM(inner, backend, prompter, measure_every=0)
    branch.training_step(random_batch(2, shape=(20, 24, 17)), Clock(0, 10))
    assert len(asked) == 4, "two rows of two rounds"
    for (proposal, first), (previous, _) in (asked[:2], asked[2:]):
        assert torch.equal(previous, first) and not torch.equal(previous, proposal)


def test_signs_of_clicks_matter(backend):
    embedding = backend.encode(scan((32, 32, 32)))
    yes, no = (backend.segment(embedding, click((8, 9, 10), labels=[s])) for s in (1, 0))
    assert float((yes - no).abs().max()) > 1e-2


def test_bf16_is_near_fp32(checkpoint):
    image, at = scan((32, 32, 32)), click((8, 9, 10))
    exact, rounded = (
        SamMed3D(checkpoint=str(checkpoint), precision=p).encode(image) for p in ("fp32", "bf16")
    )
    (a,), (b,) = exact.features.values(), rounded.features.values()
    assert a.dtype == b.dtype == torch.float32
    assert 0 < float((a - b).abs().mean()) < 0.03 * float(a.abs().mean())
    answer = SamMed3D(checkpoint=str(checkpoint), precision="bf16")
    with torch.autocast("cpu", torch.bfloat16):  # a training around it changes nothing
        inner = answer.segment(answer.encode(image), at)
    assert torch.equal(inner, answer.segment(answer.encode(image), at))


def test_refusals_say_the_way_out(backend, checkpoint):
    with pytest.raises(InputError, match=r"\(C, \*S\)"):
        backend.encode(torch.zeros(1, 8, 8))
    with pytest.raises(InputError, match="got a box"):
        box = torch.tensor([[1, 1, 1], [4, 4, 4]])
        backend.segment(backend.encode(torch.zeros(1, 8, 8, 8)), Prompt(box=box))
    with pytest.raises(InputError, match="be in the image"):
        backend.segment(backend.encode(torch.zeros(1, 8, 8, 8)), click((8, 0, 0)))
    with pytest.raises(InputError, match="voxel_spacing"):
        SamMed3D(checkpoint=str(checkpoint), voxel_spacing=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="sam_med3d_turbo"):
        SamMed3D(checkpoint="sam_med3d_turbho")


def test_the_branch_asks_it_and_holds_none_of_it(backend):
    inner = registry.load("framework", "mt")(tiny_builder(norm="none"), 3)
    branch = SemiSAM(inner, backend, UncertaintyPoints(max_uncertainty=1.0))
    step = branch.training_step(random_batch(3, shape=(20, 24, 17)), Clock(0, 10))
    assert step.metrics["sam_queried"] > 0 and float(step.losses["sam"].detach()) > 0
    step.losses["sam"].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in inner.parameters())
    assert branch.state_dict().keys() == inner.state_dict().keys()
    assert {id(p) for p in branch.parameters()} == {id(p) for p in inner.parameters()}


def test_the_protocols_take_the_papers_way(checkpoint):
    explicit = {
        "method": "mt",
        "sam": "sam-med3d",
        "sam_options": {"checkpoint": str(checkpoint)},
        "labels": 1,
    }
    for protocol in ("paper", "published"):
        settings = make_settings({**explicit, "protocol": protocol})
        backend, _ = make_pair(settings)
        assert isinstance(backend, SamMed3D)
        assert backend.voxel_spacing is None and not backend.normalise
        assert backend.precision == {"paper": "auto", "published": "fp32"}[protocol]
    own = {**explicit["sam_options"], "normalise": True}
    settings = make_settings({**explicit, "sam_options": own})
    backend, _ = make_pair(settings)
    assert backend.normalise and "sam-med3d.normalise=True" in settings.departures


def test_zero_shot_shows_it_the_newest_click_and_its_last_answer(backend, monkeypatch):
    asked = []
    segment = backend.segment

    def spied(embedding, prompt):
        asked.append((prompt, segment(embedding, prompt)))
        return asked[-1][1]

    monkeypatch.setattr(backend, "segment", spied)
    truth = np.zeros((20, 16, 12), bool)
    truth[5:15, 4:12, 3:9] = True
    image = torch.randn(1, *truth.shape, generator=torch.Generator().manual_seed(0))
    interact(backend, image, truth, [3], np.random.default_rng(0))
    prompts = [prompt for prompt, _ in asked]
    assert [len(prompt.points) for prompt in prompts] == [1, 1, 1]
    assert prompts[0].mask is None
    for (_, answer), prompt in zip(asked, prompts[1:], strict=False):
        assert torch.equal(prompt.mask, answer.sigmoid())
