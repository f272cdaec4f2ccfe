"""The 2-D U-Net against the published implementation's numbers.

``ssl4mis_unet.npz`` holds outputs of SSL4MIS's own code, in float64, with the weights below and
with 2 filters at full resolution. ``ssl4mis_unet_shapes.json`` holds the shapes of its network for
4 classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semisam.data.datasets.exact import ExactRandom
from semisam.networks.unet2d import _LEVELS as LEVELS
from semisam.networks.unet2d import UNet2d

HERE = Path(__file__).parent
SHAPES = json.loads((HERE / "ssl4mis_unet_shapes.json").read_text())


def _weights(number, key, shape):
    """Weights that are the same on every machine."""
    if key.endswith("tracked"):
        return torch.tensor(0)
    drawn = torch.from_numpy(ExactRandom(7, number).uniforms(tuple(shape)).copy()).double()
    if key.endswith("running_var"):
        return 1 + 0.5 * drawn
    return drawn if len(shape) < 2 else drawn * (6 / np.prod(shape[1:])) ** 0.5


def _small(key, shape):
    """The shape with an eighth of the filters and 3 classes instead of 4."""
    if key.startswith("decoder.out_conv"):
        return [3, *(n // 8 if n > 3 else n for n in shape[1:])]
    return [n // 8 if n > 3 else n for n in shape]


def _published(state):
    """Our network with the weights of SSL4MIS's."""
    renamed = {_own_name(key): value for key, value in state.items()}
    first, classes = renamed["down.0.0.weight"], len(renamed["heads.logits.weight"])
    net = UNet2d(first.shape[1], {"logits": classes}, filters=len(first))
    net.load_state_dict(renamed)
    return net


def _own_name(key):
    """The name here of a parameter of SSL4MIS."""
    part, _, rest = key.partition(".")
    name, _, rest = rest.partition(".")
    if part == "decoder" and name == "out_conv":
        return f"heads.logits.{rest}"
    rest = rest.removeprefix("maxpool_conv.1.")
    kind, _, leaf = rest.partition(".")
    if part == "encoder" and kind == "conv_conv":
        level = 0 if name == "in_conv" else int(name.removeprefix("down"))
        return f"down.{level}.{leaf}"
    if part == "decoder" and kind in ("conv1x1", "conv"):
        level = LEVELS - int(name.removeprefix("up"))
        return (
            f"up.{level}.{leaf.removeprefix('conv_conv.')}"
            if kind == "conv"
            else (f"reduce.{level}.{leaf}")
        )
    raise ValueError(f"an unknown parameter, {key}")


def test_equals_published_in_eval_and_train_mode():
    small = {key: _small(key, shape) for key, shape in SHAPES.items()}
    state = {k: _weights(n, k, small[k]) for n, k in enumerate(sorted(small))}
    net = _published(state).double()
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    image = torch.from_numpy(ExactRandom(7, 1000).normals((2, 1, 32, 48)).copy()).double()
    golden = np.load(HERE / "ssl4mis_unet.npz")
    for train, key in ((False, "output_eval"), (True, "output_train_no_dropout")):
        out = net.train(train)(image)["logits"].double()
        torch.testing.assert_close(out, torch.from_numpy(golden[key]).double(), rtol=0, atol=1e-5)


def test_it_has_the_parameters_of_the_published_one():
    state = {key: torch.randn(shape) if shape else torch.tensor(0) for key, shape in SHAPES.items()}
    net = _published(state)
    assert len(net.state_dict()) == len(SHAPES)
    assert sum(p.numel() for p in net.parameters()) == 1_813_764
    rates = [part.p for part in UNet2d(1, {"logits": 4}).down.modules() if hasattr(part, "p")]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]


def test_wrong_size_is_one_sentence():
    net = UNet2d(1, {"logits": 2}, filters=2)
    for shape in ((1, 1, 32, 24), (1, 1, 16, 16, 16)):
        with pytest.raises(ValueError, match=r"in multiples of 16, got \(1, 1, "):
            net(torch.zeros(shape))


@pytest.mark.parametrize("more", ["logits_level2", "logits_decoder2", "logits_decoder3_level1"])
def test_further_heads_change_no_bit_of_the_others(more):
    torch.manual_seed(0)
    plain = UNet2d(1, {"logits": 2, "sdf": 1}, filters=2)
    deep = UNet2d(1, {"logits": 2, "sdf": 1, more: 2}, filters=2)
    deep.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 1, 16, 32)
    outputs = []
    for net in (plain, deep):
        torch.manual_seed(1)
        outputs.append(net.train()(image))
    for name in ("logits", "sdf"):
        assert torch.equal(outputs[0][name], outputs[1][name])


def test_a_level_that_the_unet_has_not():
    with pytest.raises(ValueError, match=r"2-D U-Net must be at levels up to 3.*logits_level4"):
        UNet2d(1, {"logits_level4": 2})


def test_decoders_differ_in_the_way_to_enlarge():
    heads = {"logits": 2, "logits_decoder2": 2, "logits_decoder3": 2}
    net = UNet2d(1, heads, filters=2)
    layers = [{type(layer) for layer in d.modules()} for d in net.decoders.values()]
    kinds = {nn.ConvTranspose3d, nn.ConvTranspose2d}
    assert [bool(kinds & found) for found in layers] == [True, False]
    with pytest.raises(ValueError, match=r"of 3 decoders at most, got logits_decoder4"):
        UNet2d(1, {"logits_decoder4": 2})
