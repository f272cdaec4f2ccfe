"""Predictions of whole images from windows."""

import numpy as np
import torch
from torch import nn

from semisam.data.datasets.dataset import Image
from semisam.data.images.files import Geometry
from semisam.inference.evaluation import predict_probabilities


class Bright(nn.Module):
    """A method that returns the image as probability, and accepts images of two axes only."""

    def forward(self, image):
        assert image.ndim == 4
        return torch.cat([1 - image, image], 1)


def test_a_window_of_two_axes_moves_over_every_slice():
    array = np.random.default_rng(0).random((1, 20, 18, 5), np.float32)
    for patch in ((16, 16), (32, 16)):
        probs = predict_probabilities(
            Bright(),
            Image(array, Geometry((1.0, 1.0, 3.0)), has_geometry=False),
            patch,
            (7, 5),
            device=torch.device("cpu"),
            precision="fp32",
        )
        assert probs.shape == (2, 20, 18, 5)
        torch.testing.assert_close(probs[1], torch.from_numpy(array[0]))
