"""Stable-baselines3's DQN policies with a Q-network that spikes."""

import io
import pathlib
import warnings
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from snnrl.agents.encoding import decode, encode
from snnrl.agents.spiking_dqn.extractors import SlottedCNN, SlottedCombined, SlottedExtractor
from snnrl.checkpoint import match_shapes, read_archive, write_archive
from snnrl.errors import UserError, did_you_mean
from snnrl.networks import DuelingMLP, NetworkState, carried, change_steps, constrain, fill_slots, mlp
from snnrl.neurons import NEURONS, sum_over_time

MOST_STEPS = 1000
"""Largest T accepted, so that a mistyped or hostile number cannot exhaust the memory."""


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
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.T = T
        self.neuron = neuron
        self.dueling = dueling
        build = DuelingMLP if dueling else mlp
        self.q_net = build(self.features_dim, self.net_arch, int(self.action_space.n), self.activation_fn)
        if T is not None:
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
        return [self.q_net.value, self.q_net.advantage] if isinstance(self.q_net, DuelingMLP) else [self.q_net]

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
        change_steps(self, [branch.head for branch in self.branches()], self.T, steps)
        self.T = steps

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"T": self.T, "neuron": self.neuron, "dueling": self.dueling}


class SpikingDQNPolicy(DQNPolicy):
    """SB3's DQN policy around a :class:`SpikingQNetwork`.

    Added to SB3's arguments: ``T`` timesteps per decision (None: the ordinary network), the ``neuron`` kind, ``dueling``
    (value and advantage streams) and ``carry`` (potentials pass from one decision to the next in ``predict``).
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
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        *,
        T: int | None = 1,
        neuron: str = "lif",
        dueling: bool = False,
        carry: bool = False,
        **kwargs: Any,
    ) -> None:
        if T is not None and not (isinstance(T, int) and 1 <= T <= MOST_STEPS):
            raise UserError(f"T must be a whole number from 1 to {MOST_STEPS}, or None for the ordinary network, not {T!r}")
        if neuron not in NEURONS:
            raise UserError(f"unknown neuron {neuron!r}{did_you_mean(neuron, NEURONS)}")
        extractor = features_extractor_class or self.extractor
        if net_arch is None and extractor is SlottedCNN:
            net_arch = []  # as SB3 does for its NatureCNN: the extractor's fully connected layer is the last hidden one
        self.spiking = {"T": T, "neuron": neuron, "dueling": dueling}
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
        return SpikingQNetwork(**arguments, **self.spiking).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.optimizer.register_step_post_hook(lambda *_: constrain(self.q_net))

    def reduce_to(self, steps: int) -> None:
        """Let both Q-networks decide in ``steps`` timesteps, Q-values keeping their scale.

        Raises:
            UserError: the network does not spike, or ``steps`` is out of range.
        """
        if self.T is None:
            raise UserError("an ordinary network has no timesteps to lower: convert it first")
        if not 1 <= steps <= MOST_STEPS:
            raise UserError(f"T must be from 1 to {MOST_STEPS}, not {steps}")
        self.q_net.reduce_to(steps)
        self.q_net_target.reduce_to(steps)
        self.spiking["T"] = steps

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.spiking | {"carry": self.carry}

    def save(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Write the policy alone, as a zip of safetensors and JSON."""
        arguments = self._get_constructor_parameters()
        arguments.pop("lr_schedule")
        write_archive(path, {"kind": "policy", "arguments": encode(arguments)}, {"policy": self.state_dict()})

    @classmethod
    def load(cls, path: str | pathlib.Path | io.BufferedIOBase, device: torch.device | str = "auto") -> "SpikingDQNPolicy":
        """Read a policy written by :meth:`save`; nothing is unpickled.

        Raises:
            UserError: the file is not a policy, is damaged, or does not fit its own description.
        """
        archive = read_archive(path)
        if archive.metadata.get("kind") != "policy":
            raise UserError(f"{path} holds {archive.metadata.get('kind', 'something else')!r}, not a policy")
        policy = cls(lr_schedule=lambda _: 0.0, **decode(archive.metadata["arguments"], "arguments"))
        match_shapes(policy, archive.tensors["policy"], str(path))
        policy.load_state_dict(archive.tensors["policy"])
        return policy.to(get_device(device))


class SpikingMlpPolicy(SpikingDQNPolicy):
    """Vectors: a perceptron whose hidden layers spike (default ``net_arch=[64, 64]``)."""


class SpikingCnnPolicy(SpikingDQNPolicy):
    """Images: conv1-3 and fc512 of the Nature network spike (``features_extractor_kwargs`` choose another network)."""

    extractor = SlottedCNN


class SpikingMultiInputPolicy(SpikingDQNPolicy):
    """Dict observations: the images' networks and the perceptron after them spike."""

    extractor = SlottedCombined
