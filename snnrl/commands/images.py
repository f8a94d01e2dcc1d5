"""What the commands that open a classifier share: their options, and telling its kind from that of agents that play."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel

from snnrl.agents.classifier import Classifier
from snnrl.agents.library import is_classifier
from snnrl.agents.settings import Device, Percentile, Seed, Settings
from snnrl.errors import UserError
from snnrl.networks import SpikingNetwork, encode_by_rate


class ImageOptions(Settings):
    """What is asked of a classifier, and on which images."""

    data: Path | None = None
    """Folder of the images; nothing is downloaded."""
    percentile: Percentile | None = None
    """Of the pre-activations, for the thresholds of an ordinary classifier that is converted; default: 90."""
    encoding: Literal["direct", "poisson"] = "direct"
    """What a spiking network sees: pixels, the same at every step, or spikes, drawn anew at each."""
    seed: Seed = 0
    """Of the training images that set thresholds, and of Poisson spikes."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


def for_classifier(
    name: str, arguments: Sequence[str], of_agents: type[BaseModel], of_classifiers: type[BaseModel]
) -> bool:
    """Say whether ``name`` is a classifier's, so that ``arguments`` are options of classifiers.

    Raises:
        UserError: one of them is an option of the other kind alone.
    """
    classifier = is_classifier(name)
    ours, theirs = (of_classifiers, of_agents) if classifier else (of_agents, of_classifiers)
    for flag in (word.partition("=")[0] for word in arguments if word.startswith("--")):
        field = flag[2:].replace("-", "_")
        if field in theirs.model_fields and field not in ours.model_fields:
            if classifier:
                raise UserError(f"{flag} is for agents that play, {name} is an image classifier")
            raise UserError(f"{flag} is for image classifiers, and {name} is none")
    return classifier


def encode(classifier: Classifier, options: ImageOptions) -> None:
    """Let a classifier see its images as is asked for, in place.

    Raises:
        UserError: spikes are asked for, and the network is an ordinary one.
    """
    if options.encoding == "direct":
        return
    if not isinstance(classifier.network, SpikingNetwork):
        raise UserError("an ordinary network has no timesteps in which to see spikes: give --T to convert it")
    encode_by_rate(classifier.network, classifier.normalization.largest, options.seed)
