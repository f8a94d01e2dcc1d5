"""Episodes played side by side, one from every seed: as separate environments, or as games of one emulator."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from snnrl.errors import UserError

from .atari import AtariGames, games, read_protocol
from .registration import make

Observations = NDArray[Any]


class Episodes(Protocol):
    """``N`` episodes, of which some are still running, with so many ``actions`` to choose from."""

    actions: int

    def reset(self, seeds: Sequence[int]) -> Observations:
        """Begin every episode; return observations ``(N, ...)``."""

    def step(self, running: Sequence[int], actions: NDArray[Any]) -> tuple[Observations, NDArray[Any], NDArray[Any]]:
        """Take one action in each running episode; return its observation, reward and whether it has ended."""

    def close(self) -> None:
        """Close the environments."""


def open_episodes(env_id: str, count: int, env_kwargs: Mapping[str, Any]) -> Episodes:
    """Return ``count`` episodes of an environment.

    Raises:
        UserError: there is no such environment, or a DQN cannot play it.
    """
    if env_id in games():
        return _Games(AtariGames(env_id, count, read_protocol(env_kwargs.get("protocol", "v4"))))
    return _Separate([make_playable(env_id, **env_kwargs) for _ in range(count)])


def make_playable(env_id: str, **env_kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Return an environment.

    Raises:
        UserError: there is none of this name, or a DQN cannot play it.
    """
    env = make(env_id, **env_kwargs)
    if not isinstance(env.action_space, spaces.Discrete):
        raise UserError(f"{env_id} has actions of {env.action_space}: a DQN needs discrete ones")
    if isinstance(env.observation_space, spaces.Dict | spaces.Tuple):
        raise UserError(f"{env_id} has observations of several parts: only arrays are supported")
    return env


class _Separate:
    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self.envs = envs
        space = envs[0].action_space
        assert isinstance(space, spaces.Discrete)
        self.actions = int(space.n)

    def reset(self, seeds: Sequence[int]) -> Observations:
        return np.stack([env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=True)])

    def step(self, running: Sequence[int], actions: NDArray[Any]) -> tuple[Observations, NDArray[Any], NDArray[Any]]:
        taken = [self.envs[index].step(action) for index, action in zip(running, actions, strict=True)]
        observations, rewards, terminated, truncated, _ = zip(*taken, strict=True)
        return np.stack(observations), np.array(rewards, float), np.logical_or(terminated, truncated)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class _Games:
    """Games that have ended are stepped along, as the emulators only step together, and not looked at."""

    def __init__(self, emulators: AtariGames) -> None:
        self.emulators = emulators
        self.actions = int(emulators.action_space.n)

    def reset(self, seeds: Sequence[int]) -> Observations:
        return self.emulators.reset(seeds)

    def step(self, running: Sequence[int], actions: NDArray[Any]) -> tuple[Observations, NDArray[Any], NDArray[Any]]:
        everyone = np.zeros(self.emulators.count, np.int64)
        everyone[running] = actions
        frames = self.emulators.step(everyone)
        over = frames.over | frames.truncated
        return frames.observations[running], frames.rewards[running], over[running]

    def close(self) -> None:
        self.emulators.close()
