"""Replay of sequences: steps of one episode in a row, with steps before them on which a network's state is burnt in."""

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from snnrl.errors import UserError


class Sequences(NamedTuple):
    """B sequences of S = burn_in + length steps, each within one episode; time comes first."""

    observations: Tensor
    """``(S + 1, B, ...)``: the last one follows the last step; where there is none, the sequence's first step."""
    starts: Tensor
    """bool ``(S + 1, B)``: the first step there is, in front of which a network's state is zero."""
    actions: Tensor
    """``(S, B)``."""
    returns: Tensor
    """``(S, B)``: r_t + gamma * r_{t+1} + ... over the k = ``steps`` rewards that are summed."""
    steps: Tensor
    """``(S, B)``: k, which is n_steps, or less at the end of an episode and of a sequence."""
    discounts: Tensor
    """``(S, B)``: gamma^k; 0 where the episode terminates with these steps."""
    learnt: Tensor
    """bool ``(S, B)``: the steps of the sequence itself; no others are in the loss."""


class SequenceReplayBuffer(ReplayBuffer):
    """Replay of sequences for :class:`RecurrentDQN`, as in R2D2 (Kapturowski et al., ICLR 2019).

    A sequence is up to ``length`` steps of one episode around a step that is drawn. In front of it stand ``burn_in``
    steps of the same episode: from a zero state they bring a network to where the sequence begins. One that would begin
    within that many steps of the episode's first begins there, and needs none. Targets sum ``n_steps`` rewards,
    discounted by ``gamma``.

    Raises:
        UserError: Dict observations, ``optimize_memory_usage``, or a number of steps that is too small.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        length: int = 20,
        burn_in: int = 10,
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise UserError("sequences are of arrays, not of Dict observations: flatten them with a wrapper")
        if optimize_memory_usage:
            raise UserError("sequences need every next observation: leave optimize_memory_usage out")
        for name, value, least in (("length", length, 1), ("burn_in", burn_in, 0), ("n_steps", n_steps, 1)):
            if value < least:
                raise UserError(f"{name} of replay_buffer_kwargs is {value}: give {least} or more")
        super().__init__(buffer_size, observation_space, action_space, device, n_envs)
        self.length, self.burn_in, self.n_steps, self.gamma = length, burn_in, n_steps, gamma
        self.elapsed = np.zeros((self.buffer_size, n_envs), np.int64)
        """Steps of the episode before this one."""
        self.begins = np.ones(n_envs, np.bool_)
        """Whether the next step of an environment is an episode's first."""

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment."""
        self.elapsed[self.pos] = np.where(self.begins, 0, self.elapsed[self.pos - 1] + 1)
        self.begins = np.array(done, np.bool_)
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Sequences:  # type: ignore[override]
        """Draw sequences; ``env`` normalises observations and rewards."""
        rows, envs, there = self._draw(batch_size)
        before = np.vstack([np.zeros((1, batch_size), np.bool_), there])
        # what is filled in counts in extremes and penalties of a batch: an observation that was met
        first = self.observations[rows[self.burn_in], envs[self.burn_in]]
        observations = np.repeat(first[None], len(rows) + 1, axis=0)
        # the observation after the last step is the next step's, or stands in the last row
        observations[1:][there] = self.next_observations[rows[there], envs[there]]
        observations[:-1][there] = self.observations[rows[there], envs[there]]
        rewards = np.where(there, self._normalize_reward(self.rewards[rows, envs], env), 0)
        returns, steps = self._summed(rewards, there)
        last = np.arange(len(rows))[:, None] + np.maximum(steps, 1) - 1, np.arange(batch_size)
        terminated = (self.dones[rows, envs] * (1 - self.timeouts[rows, envs]))[last]
        learnt = there.copy()
        learnt[: self.burn_in] = False
        parts: tuple[Any, ...] = (
            self._normalize_obs(observations, env),
            np.vstack([there, before[:1]]) & ~before,
            self.actions[rows, envs, 0],
            returns.astype(np.float32),
            steps,
            (self.gamma**steps * (1 - terminated)).astype(np.float32),
            learnt,
        )
        return Sequences(*(self.to_torch(part) for part in parts))

    def _summed(self, rewards: NDArray[Any], there: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return at each step the discounted sum of the next rewards, and of how many."""
        returns, steps, going_on = np.zeros_like(rewards), np.zeros(rewards.shape, np.int64), there
        for step in range(min(self.n_steps, len(rewards))):
            going_on = going_on[: len(rewards) - step] & there[step:]
            returns[: len(going_on)] += self.gamma**step * np.where(going_on, rewards[step:], 0)
            steps[: len(going_on)] += going_on
        return returns, steps

    def _draw(self, batch_size: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return rows and environments ``(S, B)`` of sequences, and where these are of the same episode."""
        stored, oldest = self.size(), self.pos if self.full else 0
        envs = np.random.randint(self.n_envs, size=batch_size)  # noqa: NPY002 - as SB3, which seeds it
        drawn = np.random.randint(stored, size=batch_size)  # noqa: NPY002
        before = np.random.randint(self.length, size=batch_size)  # noqa: NPY002
        first = drawn - np.minimum(np.minimum(before, self.elapsed[(oldest + drawn) % self.buffer_size, envs]), drawn)
        into = self.elapsed[(oldest + first) % self.buffer_size, envs]
        first -= np.where(into < self.burn_in, np.minimum(into, first), 0)
        ages = first + np.arange(-self.burn_in, self.length)[:, None]
        rows = (oldest + ages) % self.buffer_size
        here = self.elapsed[rows, envs] - ages == self.elapsed[rows[self.burn_in], envs] - first
        return rows, np.broadcast_to(envs, rows.shape), here & (ages >= 0) & (ages < stored)
