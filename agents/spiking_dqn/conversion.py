"""Turn a DQN agent into a spiking one: the same network, its slots filled, its weights carried over."""

import copy
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch import Tensor, nn
from torch.nn import functional

from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.extractors import SlottedCNN, SlottedExtractor
from snnrl.agents.spiking_dqn.policy import SpikingQNetwork
from snnrl.agents.spiking_dqn.storage import settings_of
from snnrl.conversion import PERCENTILE, ConversionReport, convert
from snnrl.distillation import best_linear
from snnrl.errors import UserError

FITTED = 128
"""Observations to which a first layer on planes is fitted: some 50000 patches of the Nature network."""


def convert_agent(
    agent: DQN,
    observations: np.ndarray[Any, Any],
    *,
    T: int,
    percentile: float = PERCENTILE,
    neuron: str | None = None,
) -> tuple[SpikingDQN, ConversionReport]:
    """Return a spiking copy of a trained DQN agent, SB3's own or an ordinary :class:`SpikingDQN`, and a report.

    ``observations`` ``(B, ...)``, as the environment returns them, set the thresholds (see :func:`snnrl.convert`);
    ``neuron``: of :data:`snnrl.neurons.NEURONS`, by default the kind that the agent's ``policy_kwargs`` name.

    Raises:
        UserError: the agent spikes already, or its network holds something that cannot.
    """
    ordinary = agent if isinstance(agent, SpikingDQN) else adopt(agent)
    if ordinary.T is not None:
        raise UserError(f"the agent spikes already, at T={ordinary.T}: lower it with reduce_to")
    extractor = ordinary.q_net.features_extractor
    if not isinstance(extractor, SlottedExtractor | FlattenExtractor):
        name = type(extractor).__name__
        raise UserError(f"the extractor {name} cannot be converted: derive it from SlottedExtractor")
    neuron = neuron or ordinary.q_net.neuron
    tensor, _ = ordinary.policy.obs_to_tensor(observations)
    inputs = preprocess_obs(tensor, ordinary.observation_space, ordinary.policy.normalize_images)
    conversion = convert(_Body(ordinary.q_net), inputs, steps=T, percentile=percentile, neuron=neuron)
    spiking = remake(ordinary, T, neuron)
    load_weights(spiking, conversion.network.body.state_dict())
    return spiking, conversion.report


def adopt(agent: DQN) -> SpikingDQN:
    """Return SB3's own DQN agent as an ordinary (T None) :class:`SpikingDQN` with the same weights.

    Raises:
        UserError: its feature extractor is neither SB3's flattening nor its Nature CNN.
    """
    extractor = agent.policy.features_extractor_class
    if extractor not in (FlattenExtractor, NatureCNN):
        raise UserError(f"the extractor {extractor.__name__} cannot be converted; convert its parts with snnrl.convert")
    images = extractor is NatureCNN
    kwargs = copy.deepcopy(agent.policy_kwargs)
    kwargs.pop("features_extractor_class", None)
    if images:
        kwargs["features_extractor_kwargs"] = {"features_dim": agent.q_net.features_dim}
    policy = "CnnPolicy" if images else "MlpPolicy"
    ordinary = SpikingDQN(policy, agent.env, device=agent.device, _init_setup_model=False)
    settings = {"policy_class": ordinary.policy_class, "policy_kwargs": kwargs | {"T": None}, "double_q": False}
    ordinary.__dict__.update(settings_of(agent) | settings)
    ordinary._setup_model()
    copy_in_order(agent.q_net, ordinary.q_net)
    load_weights(ordinary, ordinary.q_net.state_dict())
    return ordinary


def remake(agent: SpikingDQN, T: int, neuron: str) -> SpikingDQN:
    """Return a new, untrained agent with the same settings and environment, spiking at ``T`` timesteps."""
    new = SpikingDQN(type(agent.policy), agent.env, device=agent.device, _init_setup_model=False)
    kwargs = without_batch_norm(agent.policy_kwargs | {"T": T, "neuron": neuron})
    new.__dict__.update(settings_of(agent) | {"policy_kwargs": kwargs})
    new._setup_model()
    return new


def without_batch_norm(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the arguments without batch-norm: spiking networks have none, conversion folds it."""
    kwargs = copy.deepcopy(policy_kwargs)
    if kwargs.get("features_extractor_kwargs", {}).get("batch_norm"):
        kwargs["features_extractor_kwargs"]["batch_norm"] = False
    return kwargs


def load_weights(agent: SpikingDQN, weights: dict[str, Tensor]) -> None:
    """Put a trained Q-network's weights into both networks of the agent."""
    agent.q_net.load_state_dict(weights)
    agent.q_net_target.load_state_dict(weights)
    agent.calibrated = True


@torch.no_grad()
def through_view(converted: SpikingDQN, student: SpikingDQN, observations: Tensor) -> dict[str, Tensor]:
    """Return weights for ``student``, which sees planes of 0 and 1, from a spiking agent that sees grey frames.

    The first layer's weights on planes are those that come nearest to its currents on the frames (least squares over
    ``observations``); everything else is carried over.
    """
    ours, theirs = student.q_net.features_extractor, converted.q_net.features_extractor
    assert isinstance(ours, SlottedCNN)
    assert isinstance(theirs, SlottedCNN)
    assert ours.view is not None
    frames = observations[:FITTED].to(student.device)
    pixels = preprocess_obs(frames, converted.observation_space, converted.policy.normalize_images)
    assert isinstance(pixels, Tensor)
    first = ours.first
    currents = theirs.first(pixels - theirs.background).flatten(2).transpose(1, 2).flatten(0, 1).cpu()
    assert isinstance(first.padding, tuple)
    patches = functional.unfold(ours.view(frames), first.kernel_size, padding=first.padding, stride=first.stride)
    weight, bias = best_linear(
        patches.transpose(1, 2).flatten(0, 1).cpu(), currents, bias=isinstance(first.bias, Tensor)
    )
    weights = student.q_net.state_dict()
    carried_over = {name: value for name, value in converted.q_net.state_dict().items() if name in weights}
    fitted = {"weight": weight.view_as(first.weight), "bias": bias}
    name = next(name for name, module in student.q_net.named_modules() if module is first)
    return weights | carried_over | {f"{name}.{part}": fitted[part] for part, _ in first.named_parameters()}


@torch.no_grad()
def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters of weighted layers in the order of the network, whatever they are called.

    Raises:
        UserError: the two networks differ in a layer's shape or in their number of layers.
    """
    pairs = (list(source.parameters()), list(target.parameters()))
    if [p.shape for p in pairs[0]] != [p.shape for p in pairs[1]]:
        raise UserError(f"the networks differ: layers of {[tuple(p.shape) for p in pairs[0]]}")
    for ours, theirs in zip(pairs[1], pairs[0], strict=True):
        ours.copy_(theirs)


class _Body(nn.Module):
    """A Q-network without SB3's preprocessing; its parts are named as there, so that weights keep their names."""

    def __init__(self, q_net: SpikingQNetwork) -> None:
        super().__init__()
        self.features_extractor = q_net.features_extractor
        self.q_net = q_net.q_net

    def forward(self, inputs: Any) -> Any:
        return self.q_net(self.features_extractor(inputs))
