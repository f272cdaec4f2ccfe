"""Every registered method with labels of which only a part is annotated."""

import pytest
import torch

from semisam.core.types import IGNORE, Batch, Clock
from semisam.plugins import registry
from semisam.testing import random_batch, tiny_builder

METHODS = [
    name
    for name, plugin in registry.list_plugins("framework").items()
    if plugin.builtin and registry.load("framework", name).trains
]
SUPERVISED = {"ce", "dice", "sdf", "distance_dice"}


def step_of(name: str, label: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    framework = registry.load("framework", name)(tiny_builder(norm="none", dropout=0.0), 3)
    batch = random_batch(3)
    rows = len(batch.image) if framework.uses_unlabeled else batch.num_labeled
    torch.manual_seed(1)
    return dict(framework.training_step(Batch(batch.image[:rows], label), Clock(50, 100)).losses)


@pytest.mark.parametrize("name", METHODS)
def test_one_annotated_slice_trains(name):
    full = random_batch(3).label
    label = torch.full_like(full, IGNORE)
    label[:, 4] = full[:, 4]
    losses = step_of(name, label)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert sum(float(losses[each]) for each in SUPERVISED & set(losses)) > 0


@pytest.mark.parametrize("name", METHODS)
def test_nothing_annotated_supervises_nothing(name):
    losses = step_of(name, torch.full_like(random_batch(3).label, IGNORE))
    found = {each: float(losses[each]) for each in SUPERVISED & set(losses)}
    assert found and not any(found.values()), found
