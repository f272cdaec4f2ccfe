"""The judge of a trained run's masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semisam.automatic.trust import Judge
from semisam.data.datasets.dataset import Dataset, Image
from semisam.data.images.files import Geometry
from semisam.data.loading.store import VolumeStore
from semisam.frameworks.queries import Queries
from semisam.inference.evaluation import predict_probabilities
from semisam.inference.predictor import Deployed
from semisam.run.adapt import labeled_cases
from semisam.run.build import make_pair
from semisam.run.settings import RunSettings


def make_judge(
    settings: RunSettings,
    model: Deployed,
    first: Deployed,
    dataset: Dataset,
    labeled: Sequence[str],
) -> Judge:
    """Return the judge of a trained model's masks.

    Args:
        settings: of the run, with a promptable model.
        model: of that run, as of `semisam.run.model.load_model`.
        first: of a run that trains nothing, with the same labeled cases.
        dataset: of both runs.
        labeled: the labeled cases.
    """
    device = torch.device(settings.device)

    def predict(image: Tensor) -> Tensor:
        geometry = Geometry((1.0,) * (image.ndim - 1))  # nothing here depends on it
        return predict_probabilities(
            model.network,
            Image(image.cpu().numpy(), geometry, has_geometry=False),
            model.patch,
            model.stride,
            device=device,
            precision=model.precision,
        )

    store = VolumeStore(dataset, labeled=labeled, unlabeled=[], test=[])
    known = [(image.to(device), label.to(device)) for image, label in labeled_cases(store)]
    queries = Queries(*make_pair(settings), dataset.class_names)
    classes = [k for k in range(1, dataset.num_classes) if k not in first.card.left_out]
    return Judge(queries, classes, first.network, predict, known, model.card.kept)
