"""RecurrentDQN: SpikingDQN with a memory, trained on sequences whose start states are burnt in."""

from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from torch import Tensor
from torch.nn import functional

from snnrl.agents.recurrent_dqn.policy import RecurrentPolicy, RecurrentQNetwork
from snnrl.agents.recurrent_dqn.sequences import SequenceReplayBuffer, Sequences
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.errors import UserError
from snnrl.networks import NetworkState, penalized


class RecurrentDQN(SpikingDQN):
    """Deep Q-learning with a Q-network that remembers the episode, for observations that do not tell the whole state.

    Everything that :class:`SpikingDQN` and SB3 document of ``DQN`` holds, but ``T`` is 1 (spiking) or None (ordinary),
    the last width of ``net_arch`` is that of an LSTM, ``predict`` passes its state on, and replay is of sequences:
    ``replay_buffer_kwargs`` are those of :class:`SequenceReplayBuffer`, ``n_steps`` and ``gamma`` among them.

    Source: R2D2 (Kapturowski et al., ICLR 2019), Sec. 3, without priorities, rescaled values and stored states.
    """

    kind = "recurrent agent"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": RecurrentPolicy}
    policy: RecurrentPolicy
    q_net: RecurrentQNetwork
    q_net_target: RecurrentQNetwork

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: GymEnv | str | None,
        *args: Any,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(policy, type) and not issubclass(policy, RecurrentPolicy):
            raise UserError(f"the policy {policy.__name__} does not remember: derive it from RecurrentPolicy")
        self.acting: NetworkState | None = None
        """State of the training episodes; None before the first step."""
        sequences = replay_buffer_class or SequenceReplayBuffer
        if not issubclass(sequences, SequenceReplayBuffer):
            raise UserError(f"{sequences.__name__} holds no sequences: derive it from SequenceReplayBuffer")
        super().__init__(policy, env, *args, replay_buffer_class=sequences, **kwargs)

    def _setup_model(self) -> None:
        self.replay_buffer_kwargs = {"gamma": self.gamma, **(self.replay_buffer_kwargs or {})}
        self.gamma = self.replay_buffer_kwargs["gamma"]
        super()._setup_model()

    def loss(self, batch: Sequences) -> Tensor:
        """Return the mean squared error over the steps of sequences, 0-dim; steps of the burn-in have no gradient.

        The target of k summed rewards is r_t + gamma r_{t+1} + ... + gamma^k Q_target(t + k, argmax_a Q(t + k, a)).
        Source: R2D2, Sec. 2.3 and 3; why no Huber loss: docs/deviations.md.
        """
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        first = self.replay_buffer.burn_in
        states = [self._burn_in(network, batch, first) for network in (self.q_net, self.q_net_target)]
        sequence = batch.observations[first:], batch.starts[first:]
        with self.mixed_precision():
            with penalized(self.q_net, self) as penalty:
                answers, _ = self.q_net.unroll(*sequence, states[0])
            with torch.no_grad():
                next_values, _ = self.q_net_target.unroll(*sequence, states[1])
        values = answers[:-1].gather(2, batch.actions[first:, :, None]).squeeze(2)
        chooser = answers.detach() if self.double_q else next_values
        best = next_values.gather(2, chooser.argmax(2, keepdim=True)).squeeze(2)
        after = torch.arange(len(values), device=best.device)[:, None] + batch.steps[first:]
        targets = self.reward_scale * batch.returns[first:] + batch.discounts[first:] * best.gather(0, after)
        learnt = batch.learnt[first:]
        return penalty.add_to(functional.mse_loss(values[learnt], targets[learnt]))

    @torch.no_grad()
    def _burn_in(self, network: RecurrentQNetwork, batch: Sequences, steps: int) -> NetworkState:
        """Return the state in which the sequences begin: after so many ``steps`` before them, from zero."""
        state = network.begin(batch.actions.shape[1])
        if not steps:
            return state
        with self.mixed_precision():
            return network.unroll(batch.observations[:steps], batch.starts[:steps], state)[1]

    def _observations(self, batch_size: int) -> Tensor:
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        return batch.observations[:-1][batch.learnt]

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        found = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        assert isinstance(self.replay_buffer, SequenceReplayBuffer)
        assert self._last_episode_starts is not None
        self.replay_buffer.begins |= self._last_episode_starts  # the environments may have been reset
        return found

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Act on the state of the running episodes, which random steps at the beginning move on as well."""
        assert self._last_obs is not None
        actions, self.acting = self.predict(self._last_obs, self.acting, self._last_episode_starts)
        if self.num_timesteps < learning_starts:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray[Any, Any],
        new_obs: np.ndarray[Any, Any] | dict[str, np.ndarray[Any, Any]],
        reward: np.ndarray[Any, Any],
        dones: np.ndarray[Any, Any],
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._last_episode_starts = dones
