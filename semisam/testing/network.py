"""The contract of a network, as tests."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semisam.networks.convolution import guard_convolutions
from semisam.testing._steps import kept_graphs

_HEADS: Mapping[str, int] = {"logits": 3, "sdf": 2}


class NetworkContract:
    """Tests of a network. Subclass it and define ``make``.

    Attributes:
        shape: a spatial shape that the network accepts, not a cube.
        levels: number of halvings below full resolution at which heads are available; 0 for a
            network with heads only at full resolution.
        decoders: number of decoders for heads such as ``logits_decoder2``.
    """

    shape: ClassVar[tuple[int, ...]] = (32, 16, 48)
    levels: ClassVar[int] = 3
    decoders: ClassVar[int] = 1

    def make(self, in_channels: int, heads: Mapping[str, int]) -> nn.Module:
        """Return the network under test, newly initialised."""
        raise NotImplementedError("define make(self, in_channels, heads)")

    def test_named_heads(self) -> None:
        """Check the heads' names and grids, for one channel and for two."""
        for in_channels, heads in ((1, {"logits": 2}), (2, _HEADS)):
            output = self._network(in_channels, heads)(self._image(in_channels))
            _check_output(output, heads, 2, self.shape)

    def test_heads_at_the_levels_of_the_decoder(self) -> None:
        """Check that ``logits_level<i>`` has the image's grid, is trained and renames nothing."""
        heads = {"logits": 2} | {f"logits_level{i}": 2 for i in range(1, self.levels + 1)}
        network = self._network(heads=heads)
        output = network(self._image())
        _check_output(output, heads, 2, self.shape)
        loss = torch.stack([head.square().mean() for head in output.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"every parameter must get a gradient, got none on {without}"
        shallow = set(self._network(heads={"logits": 2}).state_dict())
        missing = shallow - set(network.state_dict())
        assert not missing, f"deep heads must rename no other parameter, got {sorted(missing)}"

    def test_heads_of_several_decoders(self) -> None:
        """Check that ``logits_decoder<i>`` has a decoder of its own and renames nothing."""
        heads = {"logits": 2} | {f"logits_decoder{i}": 2 for i in range(2, self.decoders + 1)}
        network = self._network(heads=heads)
        _check_output(network(self._image()), heads, 2, self.shape)
        trained = {name: self._trained_by(network, name) for name in heads}
        for name in list(heads)[1:]:
            own = trained[name].difference(*(trained[other] for other in heads if other != name))
            assert len(own) > 2, (  # a head has a weight and a bias
                f"{name} must have a decoder with weights of its own, got {sorted(own)}. Lower "
                "decoders in the test class, and refuse further ones (check_head_levels)"
            )
        missing = set(self._network(heads={"logits": 2}).state_dict()) - set(network.state_dict())
        assert not missing, f"decoders must rename no other parameter, got {sorted(missing)}"

    def test_a_level_that_is_not_there_is_refused(self) -> None:
        """Check that a missing level raises a ``ValueError`` with the head's name."""
        self._check_refused(f"logits_level{self.levels + 1}", "levels", self.levels)

    def test_a_decoder_that_is_not_there_is_refused(self) -> None:
        """Check that a missing decoder raises a ``ValueError`` with the head's name."""
        self._check_refused(f"logits_decoder{self.decoders + 1}", "decoders", self.decoders)

    def test_param_groups_hold_each_parameter_once(self) -> None:
        """Check the groups of a network whose parameters have their own learning rates."""
        network: Any = self._network()
        if not hasattr(network, "param_groups"):
            return
        groups = list(network.param_groups())
        good = all(isinstance(group, Mapping) and "params" in group for group in groups)
        assert good, f"param_groups must hold dictionaries with params, got {type(groups[0])}"
        held = [id(p) for group in groups for p in group["params"]]
        assert len(held) == len(set(held)), "param_groups must hold each parameter once"
        foreign = set(held) - {id(p) for p in network.parameters()}
        assert not foreign, f"param_groups must hold own parameters, got {len(foreign)} others"

    def test_stride_is_enough(self) -> None:
        """Check that every size that is a multiple of ``stride`` works (1 if it is missing)."""
        network = self._network().eval()
        stride = getattr(network, "stride", 1)
        good = isinstance(stride, int) and stride >= 1
        assert good, f"stride must be a whole number from 1, got {stride!r}"
        axes = getattr(network, "axes", (len(self.shape),))
        assert len(self.shape) in axes, f"axes must hold {len(self.shape)}, got {axes}"
        assert not any(size % stride for size in self.shape), (
            f"the shape of this test must be a multiple of the stride {stride}, got {self.shape}"
        )
        # Multiples of the stride, but of no larger one.
        parts = [size // stride for size in self.shape]
        shape = [stride * (n if n % 2 else max(n - 1, 1)) for n in parts]
        try:
            with torch.no_grad():
                output = network(torch.zeros(2, 1, *shape))
            _check_output(output, _HEADS, 2, tuple(shape))
        except Exception as error:
            raise AssertionError(
                f"stride must be the number that divides every valid size, got {stride}, and "
                f"{tuple(shape)} fails: {error}"
            ) from error

    def test_heads_are_raw(self) -> None:
        """Check that no head is bounded, as after a tanh or sigmoid, however large the weights."""
        network = self._network().eval()
        with torch.no_grad():
            for p in network.parameters():
                if p.ndim > 1:
                    p.normal_(std=4 * p[0].numel() ** -0.5)
            output = network(self._image())
        for name in _HEADS:
            largest = float(output[name].abs().max())
            assert not largest <= 1, (
                f"{name} must be raw, got values in [-1, 1] in spite of large weights. Remove the "
                "tanh, sigmoid or softmax; a method applies its own"
            )

    def test_float32_under_autocast(self) -> None:
        """Check that outputs are float32 under autocast, as the losses need."""
        with torch.autocast("cpu", torch.bfloat16):
            output = self._network()(self._image())
        _check_output(output, _HEADS, 2, self.shape)

    def test_gradient_reaches_every_parameter(self) -> None:
        """Check that every parameter is trained."""
        network = self._network()
        output = network(self._image())
        loss = torch.stack([head.square().mean() for head in output.values()]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"every parameter must get a gradient, got none on {without}"

    def test_eval_mode_is_deterministic_and_rowwise(self) -> None:
        """Check that evaluation has no dropout and that rows are independent."""
        network = self._network().eval()
        image = self._image()
        with torch.no_grad():
            both, again, first = network(image), network(image), network(image[:1])
        for name in _HEADS:
            assert torch.equal(both[name], again[name]), f"{name} must be deterministic in eval"
            error = float((both[name][:1] - first[name]).abs().max())
            assert torch.allclose(both[name][:1], first[name], atol=1e-4, rtol=1e-3), (
                f"{name} of a row must be the same in a batch and separately in evaluation mode, "
                f"got a difference of {error:.3g}"
            )

    def test_state_round_trip(self) -> None:
        """Check that a state dict loaded in a new instance gives the same outputs."""
        network = self._network()
        network(self._image())  # updates running statistics, if any
        other = self._network(seed=1)
        other.load_state_dict(copy.deepcopy(network.state_dict()))
        image = self._image()
        with torch.no_grad():
            ours, theirs = network.eval()(image), other.eval()(image)
        for name in _HEADS:
            assert torch.equal(ours[name], theirs[name]), (
                f"{name} must be the same after load_state_dict in a new instance: keep all state "
                "in parameters and buffers"
            )

    def test_training_passes_repeat(self) -> None:
        """Check that equal weights, images and seeds of torch give equal outputs in training.

        A resumed run has another instance, so the passes of two instances are compared, too.
        """
        network, image = self._network(), self._image()
        other = self._network(seed=1)
        state = copy.deepcopy(network.state_dict())
        found = []
        for each in (network, network, other):
            each.load_state_dict(copy.deepcopy(state))
            torch.manual_seed(5)
            found.append(each(image))
        for name in _HEADS:
            same = all(torch.equal(found[0][name], output[name]) for output in found[1:])
            assert same, (
                f"{name} in training must depend only on weights, image and torch's seed, got "
                "another one from the same. Draw from torch's default generator, and keep all "
                "state in parameters and buffers"
            )

    def test_training_leaves_no_trace(self) -> None:
        """Check that a training pass keeps the image and no graph, and that nothing is seeded."""
        image = self._image()
        before = image.clone()
        states = []
        for seed in (1, 2):
            network = self._network(seed=seed)
            states.append(torch.get_rng_state())
            network(image)
            states.append(torch.get_rng_state())
        assert torch.equal(image, before), "a network must not change the image in place"
        for what, first, second in (("constructor", 0, 2), ("forward", 1, 3)):
            assert not torch.equal(states[first], states[second]), (
                f"{what} must not seed torch's generator: every step would draw the same numbers"
            )
        found = kept_graphs(network)
        assert not found, f"attributes must hold detached tensors after a pass, got {found}"

    def test_instances_share_nothing(self) -> None:
        """Check that two instances share no parameter, as a teacher needs."""
        first, second = self._network(), self._network()
        shared = {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}
        assert not shared, "two networks must not share parameters"
        same = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in same), "the same seed must give the same weights"

    def _check_refused(self, name: str, what: str, count: int) -> None:
        try:
            self._network(heads={"logits": 2, name: 2})
        except ValueError as error:
            assert name in str(error), f"the error must name the head {name}, got: {error}"
        else:
            raise AssertionError(
                f"{what} is {count}, so the network must refuse the head {name} with a ValueError"
            )

    def _trained_by(self, network: nn.Module, head: str) -> frozenset[str]:
        """Return the names of the parameters that get a gradient from a head."""
        network.zero_grad()
        network(self._image())[head].square().mean().backward()
        return frozenset(n for n, p in network.named_parameters() if p.grad is not None)

    def _network(
        self, in_channels: int = 1, heads: Mapping[str, int] = _HEADS, seed: int = 0
    ) -> nn.Module:
        torch.manual_seed(seed)
        network = self.make(in_channels, heads).train()
        guard_convolutions(network)  # as a training does
        return network

    def _image(self, in_channels: int = 1) -> Tensor:
        rng = torch.Generator().manual_seed(0)
        return torch.randn(2, in_channels, *self.shape, generator=rng)


def _check_output(
    output: object, heads: Mapping[str, int], rows: int, shape: tuple[int, ...]
) -> None:
    assert isinstance(output, dict), f"a network returns a dict by head, got {type(output)}"
    assert set(output) == set(heads), f"heads must be {sorted(heads)}, got {sorted(output)}"
    for name, channels in heads.items():
        head = output[name]
        expected = (rows, channels, *shape)
        assert tuple(head.shape) == expected, f"{name} must be {expected}, got {head.shape}"
        assert head.dtype == torch.float32, f"{name} must be float32, got {head.dtype}"
        assert bool(torch.isfinite(head).all()), f"{name} must be finite"
        raw = head.detach()
        softmax = channels > 1 and torch.allclose(raw.sum(1), torch.ones(()), atol=1e-3)
        assert not softmax, f"{name} must be raw, got values that sum to 1 as after a softmax"
