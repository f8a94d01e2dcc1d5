"""What the classifiers of a run make of the same test images: classes, operations, spikes."""

from collections.abc import Mapping

import torch

from snnrl.agents.behaviour import as_shown, first_spikes, pictures, price_spiking, sample_rows
from snnrl.agents.classifier.agent import Classifier
from snnrl.agents.classifier.evaluate import SAMPLE, evenly, operations, predictions
from snnrl.envs.images import Images, in_order
from snnrl.report.data import Behaviour, Sample

IMAGES = 1_000
"""That all classifiers name: what a report may cost is bounded."""


def observe(classifiers: Mapping[str, Classifier], images: Images) -> Behaviour:
    """Let all of a run's classifiers name the same of the test ``images``."""
    some = evenly(images, IMAGES)
    last = list(classifiers.values())[-1]
    counted = {name: operations(one, images) for name, one in classifiers.items()}
    named = {"truth": some.labels} | {name: predictions(one, some) for name, one in classifiers.items()}
    names = last.description.labels
    chosen = {who: [names[label] for label in labels] for who, labels in named.items()}
    layer, samples = ("", ()) if last.T is None else samples_of(last, some, chosen)
    source = (
        f"{len(some)} of the {len(images)} test images, evenly spread; operations are counted on "
        f"{min(SAMPLE, len(images))}."
    )
    spiking = [name for name, one in classifiers.items() if one.T is not None]
    return Behaviour(source, layer, named, names, price_spiking(counted, spiking), samples)


def samples_of(
    classifier: Classifier, images: Images, chosen: Mapping[str, list[str]]
) -> tuple[str, tuple[Sample, ...]]:
    """Return the name of a spiking classifier's first layer, and its spikes on some images; ``chosen``: by all."""
    rows = sample_rows(len(images))
    (batch,) = in_order(images.subset(rows), len(rows), classifier.normalization, classifier.device)
    with torch.no_grad():
        layer, spikes = first_spikes(classifier.network, lambda: classifier.network(batch.images))
    return layer, as_shown(rows, pictures(images.read(rows), frames=False), spikes, chosen)
