"""Turn an ordinary classifier into a spiking one, whose thresholds are set on training images."""

import numpy as np
import torch

from snnrl.agents.classifier.agent import Classifier
from snnrl.conversion import PERCENTILE, ConversionReport, convert
from snnrl.envs.images import Images, in_order

IMAGES = 512
"""Training images on which thresholds are set."""

PIXELS = 5 * 512 * 32 * 32
"""In all of their timesteps at most, which bounds the memory: above, there are fewer images."""


def convert_classifier(
    ordinary: Classifier,
    images: torch.Tensor,
    *,
    T: int,
    percentile: float = PERCENTILE,
    neuron: str | None = None,
    dropout: float = 0.0,
    thresholds_of: Classifier | None = None,
) -> tuple[Classifier, ConversionReport]:
    """Return the spiking conversion and a report; normalised ``images`` ``(B, C, H, W)`` set the thresholds.

    ``neuron``: of :data:`snnrl.neurons.NEURONS`, by default the kind in the ordinary one's description. ``dropout`` is
    that of the spiking network. The classifier ``thresholds_of`` gives its thresholds and leaks instead.
    """
    neuron = neuron or ordinary.description.neuron
    made = convert(
        ordinary.network,
        images,
        steps=T,
        percentile=percentile,
        neuron=neuron,
        thresholds_of=None if thresholds_of is None else thresholds_of.body,
    )
    changes = {"T": T, "neuron": neuron, "batch_norm": False, "dropout": dropout}
    spiking = Classifier(ordinary.description.model_copy(update=changes), ordinary.device)
    spiking.body.load_state_dict(made.network.body.state_dict())
    return spiking, made.report


def calibration_images(classifier: Classifier, images: Images, most: int, seed: int) -> torch.Tensor:
    """Return ``most`` images, chosen by ``seed``, normalised, on the classifier's device."""
    some = images.subset(np.random.default_rng(seed).permutation(len(images))[:most])
    (batch,) = in_order(some, len(some), classifier.normalization, classifier.device)
    return batch.images


def bounded(classifier: Classifier, T: int) -> int:
    """Return how many images set thresholds at ``T`` timesteps where no recipe tells."""
    _, height, width = classifier.description.image_shape
    return max(1, min(IMAGES, PIXELS // (T * height * width)))
