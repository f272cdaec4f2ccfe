"""Features by name: they are those of the pass, train the network, and leave no trace."""

from __future__ import annotations

import pytest
import torch

from semisam.core.ema import frozen_copy
from semisam.core.features import recorded
from semisam.testing import tiny_builder


def test_they_are_of_the_last_pass_and_train_the_network():
    network = tiny_builder(norm="none", dropout=0.0)(logits=2)
    image = torch.randn(1, 1, 4, 5, 6)
    with recorded(network, "body", "body.0") as features:
        network(torch.zeros_like(image))
        logits = network(image)["logits"]
    assert torch.equal(network.heads["logits"](features["body"]), logits)
    assert torch.equal(features["body.0"], network.body[0](image))
    features["body"].sum().backward()
    assert network.body[0].weight.grad.abs().sum() > 0
    assert network.heads["logits"].weight.grad is None


def test_nothing_is_recorded_outside_or_by_a_copy():
    network = tiny_builder()(logits=2)
    with recorded(network, "body") as features:
        network(torch.ones(1, 1, 4, 5, 6))
    before = features["body"]
    network(torch.zeros(1, 1, 4, 5, 6))
    frozen_copy(network)(torch.zeros(1, 1, 4, 5, 6))
    assert features["body"] is before


def test_an_unknown_part_is_named_with_those_there_are():
    network = tiny_builder()(logits=2)
    told = r"parts of TinyNet \(body, heads, and their parts\), got block_five"
    with pytest.raises(ValueError, match=told), recorded(network, "block_five"):
        pass
