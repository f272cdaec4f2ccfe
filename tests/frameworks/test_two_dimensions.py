"""Every method on images of two axes, bare and with the branch, by the same files."""

import pytest
import torch

from semisam.backends.synthsam import SynthSAM
from semisam.core.types import IGNORE, Clock
from semisam.frameworks.semisam import SemiSAM
from semisam.networks.unet2d import UNet2d
from semisam.plugins import registry
from semisam.prompters.center_points import CenterPoints
from semisam.testing import random_batch

METHODS = sorted(
    p.name
    for p in registry.list_plugins("framework").values()
    if p.builtin and registry.load("framework", p.name).trains
)
SHAPE = (32, 48)


@pytest.mark.parametrize(("wrapped", "channels"), [(False, 1), (True, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_two_steps(method, wrapped, channels):
    def build(**heads):
        return UNet2d(channels, heads, filters=2)

    torch.manual_seed(0)
    framework = registry.load("framework", method)(build, 3)
    if wrapped:
        prompter = CenterPoints(points=3, max_uncertainty=1.0)
        framework = SemiSAM(framework, SynthSAM(), prompter, weight=0.5, loss="dice", ramp_rate=0)
    framework.train()
    optimizer = torch.optim.SGD(framework.param_groups(), lr=0.01)
    before = [p.detach().clone() for p in framework.parameters() if p.requires_grad]
    for step in (1, 90):
        batch = random_batch(3, labeled=2, unlabeled=2, channels=channels, shape=SHAPE, seed=step)
        batch.label[0, :8] = IGNORE
        found = framework.training_step(batch, Clock(step, 100))
        assert found.probs.shape == (4, 3, *SHAPE)
        assert wrapped == ("sam" in found.losses)
        loss = torch.stack(list(found.losses.values())).sum()
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        framework.after_update(Clock(step, 100))
    after = [p for p in framework.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        probs = framework.eval()(batch.image)
    torch.testing.assert_close(probs.sum(1), torch.ones(4, *SHAPE), atol=1e-4, rtol=0)
