"""Name what is on images that were not trained on, and see what the network does: accuracy, spike rates, energy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snnrl.agents import metrics
from snnrl.agents.classifier.agent import Classifier
from snnrl.energy import LayerOperations, count_operations
from snnrl.envs.images import Images, in_order

BATCH = 250
SAMPLE = 256
"""Images, evenly spread over all of them, on which operations are counted."""


@dataclass(frozen=True)
class Evaluation:
    """What was got wrong, what the network did, and its operations."""

    images: int
    wrong: tuple[int, ...]
    """Places of the images that were taken for something else."""
    activity: metrics.Activity
    layers: tuple[LayerOperations, ...]

    @property
    def accuracy(self) -> float:
        """Share of the images that were named rightly."""
        return 1 - len(self.wrong) / self.images

    @property
    def energy_ratio(self) -> float:
        """The ordinary network's energy over this one's."""
        return metrics.ratio(self.activity, self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into a summary."""
        return {
            "accuracy": self.accuracy,
            "images": self.images,
            "wrong": list(self.wrong),
            "spike_rate": self.activity.spike_rate,
            "energy_ratio": self.energy_ratio,
        }


@torch.no_grad()
def predictions(classifier: Classifier, images: Images) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the class of each image."""
    classifier.network.eval()
    batches = in_order(images, BATCH, classifier.normalization, classifier.device)
    return torch.cat([classifier.network(batch.images).argmax(1).cpu() for batch in batches]).numpy()


@torch.no_grad()
def evaluate(classifier: Classifier, images: Images) -> Evaluation:
    """Name all images and watch the network; count operations on a sample of them."""
    with metrics.watching(classifier.body) as activity:
        named = predictions(classifier, images)
    sample = images.subset(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(np.int64))
    (batch,) = in_order(sample, SAMPLE, classifier.normalization, classifier.device)
    layers = count_operations(classifier.network, batch.images, len(sample))
    wrong = np.flatnonzero(named != images.labels)
    return Evaluation(len(images), tuple(int(place) for place in wrong), activity, layers)
