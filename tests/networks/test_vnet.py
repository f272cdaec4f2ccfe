"""The V-Net against the published implementation's numbers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from semisam.core.errors import InputError
from semisam.networks.vnet import VNet, from_published, load_published

GOLDENS = {
    "vnet_n2": {"0": lambda out: out["logits"]},
    "vnet_sdf_n2": {"0": lambda out: out["sdf"].tanh(), "1": lambda out: out["logits"]},
}


def _golden(shared, name):
    data = np.load(shared / "goldens" / f"{name}.npz")
    prefix = "state_dict/"
    state = {
        k.removeprefix(prefix): torch.from_numpy(data[k]) for k in data if k.startswith(prefix)
    }
    return data, state


@pytest.mark.parametrize("name", GOLDENS)
def test_equals_published_in_eval_and_train_mode(shared, name):
    data, state = _golden(shared, name)
    # In float64, since float32 kernels differ between CPUs. So was the golden's own training pass
    # rounded, whose statistics of a few coarse voxels multiply that: it is 2.5e-5 off.
    net = from_published(state).double()
    net.dropout.p = 0.0
    image = torch.from_numpy(data["image"]).double()
    for mode, key, atol in (
        (False, "output_eval", 1e-6),
        (True, "output_train_no_dropout", 5e-5),
    ):
        net.train(mode)
        out = net(image)
        for number, read in GOLDENS[name].items():
            want = torch.from_numpy(data[f"{key}_{number}"]).double()
            torch.testing.assert_close(read(out).double(), want, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("file", "heads"),
    [("vnet_n16", {"logits": 2}), ("vnet_sdf_n16", {"sdf": 1, "logits": 1})],
)
def test_published_checkpoints_open(shared, tmp_path, file, heads):
    shapes = json.loads((shared / "goldens" / f"{file}_state_dict_shapes.json").read_text())
    state = {
        key: torch.zeros(shape, dtype=torch.int64) if "tracked" in key else torch.randn(shape)
        for key, shape in shapes.items()
    }
    torch.save(state, tmp_path / "iter_6000.pth")
    net = load_published(tmp_path / "iter_6000.pth")
    assert {k: v.out_channels for k, v in net.heads.items()} == heads
    assert len(net.state_dict()) == len(shapes)
    trainable = sum(p.numel() for p in net.parameters())
    assert abs(trainable - 9.45e6) < 0.01e6


def test_a_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("the checkpoint ran code",))

    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"out_conv.weight": Evil()}, file)
    with pytest.raises(InputError, match="weights_only"):
        load_published(tmp_path / "evil.pth")


def test_another_network_is_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="published V-Net"):
        load_published(tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"torch\.load refuses"):
        load_published(tmp_path / "missing.pth")


def test_wrong_size_is_one_sentence():
    with pytest.raises(ValueError, match=r"multiple of 16, got \(32, 24, 16\)"):
        VNet(1, {"logits": 2}, filters=2)(torch.zeros(1, 1, 32, 24, 16))


def test_heads_are_float32_under_autocast():
    net = VNet(1, {"logits": 3}, filters=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(2, 1, 16, 16, 16))["logits"].dtype == torch.float32


def test_a_deep_head_reads_its_level_of_the_decoder():
    torch.manual_seed(0)
    heads = {"logits": 2} | {f"logits_level{i}": 3 for i in (1, 2, 3)}
    net = VNet(1, heads, filters=2).eval()
    image = torch.randn(1, 1, 32, 16, 48)
    seen = {}
    for name in ("six", "seven", "eight"):
        block = getattr(net, f"block_{name}")
        block.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    out = net(image)
    for level, name in ((1, "eight"), (2, "seven"), (3, "six")):
        head = net.heads[f"logits_level{level}"]
        assert seen[name].shape[1:] == (2 << level, 32 >> level, 16 >> level, 48 >> level)
        coarse = torch.einsum("kc,bcxyz->bkxyz", head.weight[:, :, 0, 0, 0], seen[name])
        coarse = coarse + head.bias.view(1, -1, 1, 1, 1)
        want = torch.nn.functional.interpolate(coarse, scale_factor=2**level, mode="trilinear")
        torch.testing.assert_close(out[f"logits_level{level}"], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", ["logits_level2", "logits_decoder2", "logits_decoder3_level1"])
def test_further_heads_change_no_bit_of_the_others(more):
    torch.manual_seed(0)
    plain = VNet(1, {"logits": 2, "sdf": 1}, filters=2)
    deep = VNet(1, {"logits": 2, "sdf": 1, more: 2}, filters=2)
    deep.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 1, 16, 16, 16)
    outputs = []
    for net in (plain, deep):
        torch.manual_seed(1)
        outputs.append(net.train()(image))
    for name in ("logits", "sdf"):
        assert torch.equal(outputs[0][name], outputs[1][name])


def test_a_level_that_vnet_has_not():
    with pytest.raises(ValueError, match=r"V-Net must be at levels up to 3.*logits_level4"):
        VNet(1, {"logits_level4": 2})


def test_decoders_differ_in_the_way_to_enlarge():
    heads = {"logits": 2, "logits_decoder2": 2, "logits_decoder3": 2}
    net = VNet(1, heads, filters=2)
    layers = [{type(layer) for layer in d.modules()} for d in net.decoders.values()]
    kinds = {nn.ConvTranspose3d, nn.ConvTranspose2d}
    assert [bool(kinds & found) for found in layers] == [False, False]
    with pytest.raises(ValueError, match=r"of 3 decoders at most, got logits_decoder4"):
        VNet(1, {"logits_decoder4": 2})
