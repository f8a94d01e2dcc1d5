"""Q-networks that remember: the last hidden layer of a spiking or an ordinary one is an LSTM."""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from snnrl.agents.spiking_dqn.policy import SpikingDQNPolicy, SpikingQNetwork
from snnrl.errors import UserError
from snnrl.networks import NetworkState, RecurrentLayer, reset_rows


class RecurrentQNetwork(SpikingQNetwork):
    """Q-network whose last hidden layer is a :class:`RecurrentLayer`: Q-values of an episode's observations so far.

    With ``T`` 1 the layers before it spike, and so does its output, once a step; the head does not fire. With ``T``
    None it is the ordinary network of equal size (DRQN, Hausknecht and Stone 2015, arXiv 1507.06527).
    """

    def __init__(self, *args: Any, T: int | None = 1, **kwargs: Any) -> None:
        super().__init__(*args, T=None, **kwargs)
        *hidden, width = self.net_arch
        layers = OrderedDict(self.branches()[0].named_children())
        del layers[f"fc{len(self.net_arch)}"]
        inputs = hidden[-1] if hidden else self.features_dim
        layers["lstm"] = RecurrentLayer(inputs, width, spiking=T is not None, bias=self.bias)
        layers.move_to_end("head")
        self.q_net = nn.Sequential(layers)
        self.T = T
        if T is not None:
            self._fill(T)

    def unroll(self, observations: Tensor, starts: Tensor, state: NetworkState) -> tuple[Tensor, NetworkState]:
        """Return Q-values ``(L, B, actions)`` of L steps ``(L, B, ...)``, and the state after them.

        Where ``starts``, bool ``(L, B)``, is true, an episode begins and the row's state is zero.
        """
        *hidden, lstm, head = self.q_net
        features = self.extract_features(observations.flatten(0, 1), self.features_extractor)
        for layer in hidden:
            features = layer(features)
        outputs, state = lstm(features.view(*starts.shape, -1), starts, state)
        return head(outputs), state

    def begin(self, rows: int) -> NetworkState:
        """Return the state of so many rows before their episodes' first steps."""
        lstm = self.q_net[-2]
        assert isinstance(lstm, RecurrentLayer)
        return lstm.begin(rows)

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Return Q-values ``(B, actions)`` of observations ``(B, ...)``, each the first of an episode."""
        return self.decide(obs, None)[0]

    def decide(self, obs: PyTorchObs, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        """Return Q-values ``(B, actions)`` of one step, and the state after it; ``state`` None: the episodes begin."""
        assert isinstance(obs, Tensor)
        starts = torch.full((1, len(obs)), state is None, device=obs.device)
        q_values, state = self.unroll(obs[None], starts, self.begin(len(obs)) if state is None else state)
        return q_values[0], state


class RecurrentPolicy(SpikingDQNPolicy):
    """SB3's DQN policy around a :class:`RecurrentQNetwork`; the last width in ``net_arch`` is the LSTM's.

    ``predict`` takes the state and returns it, as with other recurrent policies of SB3.

    Raises:
        UserError: ``T`` is neither 1 nor None, there is no width for the LSTM, or ``dueling`` streams or a ``carry``
            are asked for.
    """

    q_net: RecurrentQNetwork
    q_net_target: RecurrentQNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        *,
        T: int | None = 1,
        dueling: bool = False,
        carry: bool = False,
        **kwargs: Any,
    ) -> None:
        _check_steps(T)
        if dueling or carry:
            raise UserError("a recurrent network has one head and always passes its state on: no dueling, no carry")
        net_arch = [64, 64] if net_arch is None else net_arch
        if not net_arch:
            raise UserError("net_arch is empty: its last width is the LSTM's, give one such as [64]")
        super().__init__(observation_space, action_space, lr_schedule, net_arch, T=T, **kwargs)

    def make_q_net(self) -> RecurrentQNetwork:
        """Build the online or the target network."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return RecurrentQNetwork(**arguments, **self.spiking)

    def reduce_to(self, steps: int) -> None:
        """Do nothing: a decision takes one timestep already.

        Raises:
            UserError: ``steps`` is not 1, or the network does not spike.
        """
        _check_steps(steps)
        super().reduce_to(steps)

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        state: Any = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """Return greedy actions ``(B,)`` and the :class:`NetworkState` after them.

        They follow from ``state`` (None: every episode begins), which counts as zero in rows with ``episode_start``.

        Raises:
            UserError: the state is that of another number of episodes.
        """
        self.set_training_mode(False)
        observations, vectorized = self.obs_to_tensor(observation)
        if state is not None and (rows := len(state.potentials[0])) != len(observations):
            raise UserError(f"the state is that of {rows} episodes, there are {len(observations)} observations")
        if state is not None and episode_start is not None:
            state = reset_rows(state, torch.as_tensor(episode_start, dtype=torch.bool, device=self.device))
        q_values, state = self.q_net.decide(observations, state)
        actions = q_values.argmax(1).cpu().numpy()
        return (actions if vectorized else actions.squeeze(0)), state


def _check_steps(steps: int | None) -> None:
    if steps not in (1, None):
        raise UserError(
            f"T={steps}: a recurrent network decides in one timestep, the next one is the next step of the episode; "
            "give 1, or None for no spikes"
        )
