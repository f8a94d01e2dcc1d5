"""Name what is on images that were not trained on, and see what the network does: accuracy, spike rates, energy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from snnrl.agents import metrics
from snnrl.agents.classifier.agent import Classifier
from snnrl.energy import LayerOperations, add_batches, count_operations
from snnrl.envs.images import Images, in_order

BATCH = 250
"""Images that are named at a time, at most."""
PIXELS = 5 * 250 * 32 * 32
"""Of these images in all timesteps, at most: the memory of a forward grows with them."""
SAMPLE = 256
"""Images on which operations are counted."""


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
    batches = in_order(images, at_once(classifier), classifier.normalization, classifier.device)
    return torch.cat([classifier.network(batch.images).argmax(1).cpu() for batch in batches]).numpy()


@torch.no_grad()
def evaluate(classifier: Classifier, images: Images) -> Evaluation:
    """Name all images and watch the network; count operations on a sample of them."""
    with metrics.watching(classifier.body) as activity:
        named = predictions(classifier, images)
    wrong = np.flatnonzero(named != images.labels)
    layers = operations(classifier, images)
    return Evaluation(len(images), tuple(int(place) for place in wrong), activity, layers)


def operations(classifier: Classifier, images: Images) -> tuple[LayerOperations, ...]:
    """Count the operations of the classifier's decisions on a sample of the images, under the layers' short names."""
    sample = evenly(images, SAMPLE)
    batches = in_order(sample, at_once(classifier), classifier.normalization, classifier.device)
    counted = [count_operations(classifier.network.eval(), batch.images, len(batch.labels)) for batch in batches]
    return metrics.short_names(add_batches(counted))


def evenly(images: Images, most: int) -> Images:
    """Return ``most`` images, evenly spread over all of them, or all if there are no more."""
    return images.subset(np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64))


def at_once(classifier: Classifier) -> int:
    """Return how many images are named at a time, so that memory stays bounded whatever their size and T."""
    _, height, width = classifier.description.image_shape
    return max(1, min(BATCH, PIXELS // ((classifier.T or 1) * height * width)))
