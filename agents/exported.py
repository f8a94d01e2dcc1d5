"""What an agent or a classifier gives to be exported: the chain of its network, and what the network is given."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from snnrl.agents.classifier.agent import Classifier
from snnrl.agents.spiking_dqn.extractors import SlottedCNN
from snnrl.agents.spiking_dqn.policy import SpikingQNetwork
from snnrl.errors import UserError
from snnrl.export import Chain, Observation, chain_of


def agent_chain(q_network: SpikingQNetwork) -> Chain:
    """Return the chain of a Q-network.

    Raises:
        UserError: it decides in several timesteps, or cannot be exported.
    """
    _check_steps(q_network.T)
    space, extractor = q_network.observation_space, q_network.features_extractor
    if not isinstance(space, spaces.Box) or not isinstance(extractor, SlottedCNN | FlattenExtractor):
        raise UserError(
            f"a {type(extractor).__name__} of {type(space).__name__} observations cannot be exported: an image or a "
            "vector, and a network of ours, can"
        )
    if q_network.dueling:
        raise UserError("a dueling agent cannot be exported: its two streams are no chain of layers")
    of_bytes = space.dtype == np.uint8
    sides = [1] * (len(space.shape) - 1)
    gain, offset = np.ones((space.shape[0], *sides)), np.zeros((space.shape[0], *sides))
    if is_image_space(space) and q_network.normalize_images:
        gain /= 255
    view = None
    if isinstance(extractor, SlottedCNN):
        view, body = extractor.view, extractor.cnn
        offset -= extractor.background
    else:
        body = nn.Sequential(nn.Flatten())
    if view is not None:
        gain, offset = np.ones((view.planes, 1, 1)), np.zeros((view.planes, 1, 1))
    network = nn.Sequential(body, *q_network.branches())
    return chain_of(network, Observation(space.shape, of_bytes, gain, offset, view))


def classifier_chain(classifier: Classifier) -> Chain:
    """Return the chain of an image classifier.

    Raises:
        UserError: it decides in several timesteps, or cannot be exported.
    """
    _check_steps(classifier.T)
    given = classifier.normalization
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (given.mean, given.std))
    seen = Observation(classifier.description.image_shape, True, 1 / (255 * std), -mean / std)
    return chain_of(classifier.body, seen)


def _check_steps(steps: int | None) -> None:
    if steps is not None and steps > 1:
        raise UserError(f"a network that decides in {steps} timesteps cannot be exported: give --T 1")
