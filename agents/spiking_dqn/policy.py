"""Stable-baselines3's DQN policies with a Q-network that spikes."""

import io
import pathlib
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from snnrl.agents.encoding import decode, encode
from snnrl.agents.spiking_dqn.checks import check_architecture, check_kind
from snnrl.agents.spiking_dqn.extractors import SlottedCNN, SlottedCombined, SlottedExtractor, channels_last
from snnrl.checkpoint import match_shapes, read_archive, write_archive
from snnrl.errors import UserError, did_you_mean
from snnrl.files import first_line, quoted
from snnrl.networks import (
    DuelingMLP,
    NetworkState,
    carried,
    change_steps,
    check_ordinary,
    constrain,
    fill_slots,
    mlp,
    neurons_of,
    reset_rows,
    without_bias,
)
from snnrl.neurons import NEURONS, sum_over_time
from snnrl.reduction import MOST_STEPS

_SLOTTED: dict[type[BaseFeaturesExtractor], type[SlottedExtractor]] = {
    NatureCNN: SlottedCNN,
    CombinedExtractor: SlottedCombined,
}
"""What stands in for SB3's own extractors: the same functions, able to spike."""


class SpikingQNetwork(QNetwork):
    """Q-network with activation slots: observations ``(B, ...)`` to Q-values ``(B, actions)``.

    With ``T`` None it is the ordinary network. Otherwise every slot holds spiking neurons, and Q is the potential of
    the non-firing head summed over T steps.
    """

    def __init__(
        self,
        *args: Any,
        T: int | None = 1,
        neuron: str = "lif",
        dueling: bool = False,
        bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.T = T
        self.neuron = neuron
        self.dueling = dueling
        self.bias = bias
        build = DuelingMLP if dueling else mlp
        self.q_net = build(  # type: ignore[assignment]
            self.features_dim, self.net_arch, int(self.action_space.n), self.activation_fn
        )
        if not bias:
            without_bias(self)
        if T is None:
            check_ordinary(self)
        else:
            self._fill(T)

    def _fill(self, steps: int) -> None:
        extractor = self.features_extractor
        timed = extractor.fill(self.neuron, steps) if isinstance(extractor, SlottedExtractor) else False
        for branch in self.branches():
            fill_slots(branch, self.neuron, steps, encoder=not timed)
        if not timed and not self.net_arch:
            warnings.warn(
                f"nothing spikes: {type(extractor).__name__} counts as dense and net_arch is empty; "
                "give policy_kwargs a net_arch such as [64], or leave features_extractor_class at its default",
                stacklevel=2,
            )
            self.T = None

    def branches(self) -> list[nn.Sequential]:
        """Return the perceptrons that end in a head: one, or value and advantage."""
        q_net: nn.Module = self.q_net
        if isinstance(q_net, DuelingMLP):
            return [q_net.value, q_net.advantage]
        assert isinstance(q_net, nn.Sequential)
        return [q_net]

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> Tensor:
        """Return features; where autocast multiplies in bfloat16, bytes become bfloat16 without a float32 between."""
        if not isinstance(obs, Tensor) or not isinstance(features_extractor, SlottedCNN):
            return super().extract_features(obs, features_extractor)
        if features_extractor.view is not None:
            planes: Tensor = features_extractor(obs)
            return planes
        images = channels_last(obs)
        of_bytes = self.normalize_images and is_image_space(self.observation_space)
        if of_bytes and torch.is_autocast_enabled(obs.device.type):
            features: Tensor = features_extractor(images.to(torch.bfloat16).mul_(1 / 255))
            return features
        return super().extract_features(images, features_extractor)

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Return Q-values ``(B, actions)``; every potential starts at zero."""
        q_values = super().forward(obs)
        return q_values if self.T is None else sum_over_time(q_values, self.T)

    @torch.no_grad()
    def decide(self, obs: PyTorchObs, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        """Return Q-values and the potentials after them, the hidden potentials starting from ``state``."""
        with carried(self, state) as collected:
            q_values = self(obs)
        return q_values, collected[0]

    def reduce_to(self, steps: int) -> None:
        """Decide in ``steps`` timesteps from now on, Q-values keeping their scale."""
        assert self.T is not None
        change_steps(self, [branch.get_submodule("head") for branch in self.branches()], self.T, steps)
        self.T = steps

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spiking = {"T": self.T, "neuron": self.neuron, "dueling": self.dueling, "bias": self.bias}
        return super()._get_constructor_parameters() | spiking


class SpikingDQNPolicy(DQNPolicy):
    """SB3's DQN policy around a :class:`SpikingQNetwork`.

    Added to SB3's arguments: ``T`` timesteps per decision (None: the ordinary network), the kind of ``neuron``,
    ``dueling`` (value and advantage streams), ``bias`` (False: no layer has one) and ``carry`` (in ``predict``,
    potentials pass on to the next decision).
    """

    q_net: SpikingQNetwork
    q_net_target: SpikingQNetwork
    extractor: ClassVar[type[BaseFeaturesExtractor]] = FlattenExtractor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        T: int | None = 1,
        neuron: str = "lif",
        dueling: bool = False,
        bias: bool = True,
        carry: bool = False,
        **kwargs: Any,
    ) -> None:
        if T is not None:
            T = _check_steps(T)
        if neuron not in NEURONS:
            raise UserError(f"unknown neuron {neuron!r}{did_you_mean(neuron, NEURONS)}")
        if action_space.start != 0:
            raise UserError(f"actions start at {action_space.start}, SB3's DQN counts from 0: wrap the environment")
        extractor = features_extractor_class or self.extractor
        extractor = _SLOTTED.get(extractor, extractor)
        if isinstance(observation_space, spaces.Dict) and extractor in (FlattenExtractor, SlottedCNN):
            raise UserError("Dict observations need the MultiInputPolicy, or a features_extractor_class of their own")
        if net_arch is None and extractor is SlottedCNN:
            net_arch = []  # as SB3 does for its NatureCNN: the extractor's fully connected layer is the last hidden one
        if issubclass(extractor, SlottedExtractor) and not kwargs.get("normalize_images", True):
            # SB3 tells its own extractors in the same way that floats can be images
            given = kwargs.get("features_extractor_kwargs") or {}
            kwargs["features_extractor_kwargs"] = given | {"normalized_image": True}
        self.spiking: dict[str, Any] = {"T": T, "neuron": neuron, "dueling": dueling, "bias": bias}
        self.carry = carry
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, features_extractor_class=extractor, **kwargs
        )

    @property
    def T(self) -> int | None:
        """Timesteps per decision; None for the ordinary network."""
        return self.q_net.T

    def make_q_net(self) -> SpikingQNetwork:
        """Build the online or the target network."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return SpikingQNetwork(**arguments, **self.spiking)

    def _build(self, lr_schedule: Schedule) -> None:
        if self.spiking["T"] is not None and self.optimizer_class is torch.optim.Adam and not self.optimizer_kwargs:
            # thresholds and leaks are many tiny parameters: one fused kernel instead of a dozen calls for each
            self.optimizer_kwargs = {"fused": True}
        super()._build(lr_schedule)
        neurons = list(neurons_of(self.q_net).values())

        def keep_in_range(*_: Any) -> None:
            for neuron in neurons:
                neuron.constrain()

        self.optimizer.register_step_post_hook(keep_in_range)

    def reduce_to(self, steps: int) -> None:
        """Let both Q-networks decide in ``steps`` timesteps, Q-values keeping their scale.

        Raises:
            UserError: the network does not spike, or ``steps`` is out of range.
        """
        if self.T is None:
            raise UserError("an ordinary network has no timesteps to lower: convert it first")
        steps = _check_steps(steps)
        self.q_net.reduce_to(steps)
        self.q_net_target.reduce_to(steps)
        self.spiking["T"] = steps

    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: Any = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """Return greedy actions ``(B,)`` and the state, which with ``carry`` is a :class:`NetworkState`.

        The potentials in ``state`` are where the hidden neurons start, zero in rows with ``episode_start``.
        """
        if not self.carry or self.T is None:
            return super().predict(observation, state, episode_start, deterministic)
        if state is not None and episode_start is not None:
            state = reset_rows(state, torch.as_tensor(episode_start, dtype=torch.bool, device=self.device))
        with carried(self.q_net, state) as collected:
            actions, _ = super().predict(observation, None, episode_start, deterministic)
        return actions, collected[0]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.spiking | {"carry": self.carry}

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Write the policy alone, as a zip of safetensors and JSON."""
        arguments = self._get_constructor_parameters()
        arguments.pop("lr_schedule")
        metadata = {"kind": "policy", "arguments": encode(arguments)}
        write_archive(path, metadata, {"policy": self.state_dict()})  # type: ignore[arg-type]

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
    ) -> "SpikingDQNPolicy":
        """Read a policy written by :meth:`save`; nothing is unpickled. ``custom_objects`` as in ``SpikingDQN.load``.

        Raises:
            UserError: the file is no policy, is damaged, does not fit its own description or needs ``custom_objects``.
        """
        archive = read_archive(path)  # type: ignore[arg-type]
        where = quoted(path) if isinstance(path, str | pathlib.Path) else "the given stream"
        check_kind(archive, "policy", where)
        arguments = decode(archive.metadata.get("arguments"), "arguments", custom_objects)
        if not isinstance(arguments, dict):
            raise UserError(f"cannot read {where}: it has no arguments; save the policy again")
        tensors = archive.tensors.get("policy", {})
        check_architecture(cls, arguments, tensors, where)
        try:
            policy = cls(lr_schedule=lambda _: 0.0, **arguments)
        except UserError:
            raise
        except Exception as error:  # whatever the file's arguments provoke
            raise UserError(f"cannot make the policy that {where} describes: {first_line(error)}") from error
        match_shapes(policy, tensors, where)
        policy.load_state_dict(tensors)
        constrain(policy)
        return policy.to(get_device(device))


def _check_steps(steps: Any) -> int:
    """Return T as Python's integer, whatever kind of integer it was."""
    if isinstance(steps, int | np.integer) and 1 <= steps <= MOST_STEPS:
        return int(steps)
    found = quoted(steps) if isinstance(steps, str) else str(steps)[:40]
    raise UserError(f"T must be a whole number from 1 to {MOST_STEPS}, or None for no spikes, not {found}")


class SpikingMlpPolicy(SpikingDQNPolicy):
    """Vectors: a perceptron whose hidden layers spike (default ``net_arch=[64, 64]``)."""


class SpikingCnnPolicy(SpikingDQNPolicy):
    """Images: conv1-3 and fc512 of the Nature network spike (``features_extractor_kwargs`` choose another network)."""

    extractor = SlottedCNN


class SpikingMultiInputPolicy(SpikingDQNPolicy):
    """Dict observations: the images' networks and the perceptron after them spike."""

    extractor = SlottedCombined
