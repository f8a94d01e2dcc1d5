"""Exact resumption of any deterministic environment: every episode has its own seed, and its actions are recorded."""

from typing import Any, TypedDict, TypeVar

import gymnasium
import numpy as np

from snnrl.errors import UserError

ObsType = TypeVar("ObsType")


class Progress(TypedDict):
    """Where an environment stands, ready for JSON: the episode's number from 0 and the actions taken in it."""

    episode: int
    actions: list[int]


def episode_seed(seed: int, rank: int, episode: int) -> int:
    """Return the seed, below 2**32, of an episode: of a run's seed, the environment's rank and the episode's number."""
    return int(np.random.SeedSequence([seed, rank, episode]).generate_state(1)[0])


class SeededEpisodes(gymnasium.Wrapper[ObsType, int, ObsType, int]):
    """Makes an environment resumable: ``restore(progress())`` in a new process continues bit for bit.

    Episode number ``e`` is seeded from ``SeedSequence([seed, rank, e])``, whatever was played before it, so the
    episode's number and actions are the whole state: restoring resets with that seed and replays the actions through
    everything wrapped inside. A seed given to ``reset`` is ignored, or vectorised environments, which pass one to the
    first reset only, would make an episode depend on more than its number.

    Args:
        env: a deterministic environment with discrete actions whose ``reset(seed=...)`` forgets all that came before.
        seed: the run's seed, 0 <= seed < 2**32.
        rank: number of this copy among parallel ones, 0 <= rank < 2**32.

    Raises:
        UserError: the actions are not discrete, or seed or rank are out of range.
    """

    def __init__(self, env: gymnasium.Env[ObsType, int], seed: int, rank: int) -> None:
        super().__init__(env)
        if not isinstance(env.action_space, gymnasium.spaces.Discrete):
            raise UserError(f"SeededEpisodes needs discrete actions, {env} has {env.action_space}")
        for name, value in {"seed": seed, "rank": rank}.items():
            if not 0 <= value < 2**32:
                raise UserError(f"{name} must be in 0..4294967295, got {value}")
        self._seed, self._rank = seed, rank
        self._episode = -1
        self._actions: list[int] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Start the next episode with its own seed; ``seed`` is ignored.

        Raises:
            UserError: ``options`` were given, which ``restore`` could not repeat.
        """
        if options:
            raise UserError(f"SeededEpisodes cannot repeat reset options, got {options}; leave them out")
        return self._begin(self._episode + 1)

    def step(self, action: int) -> tuple[ObsType, Any, bool, bool, dict[str, Any]]:
        """Take and record an action."""
        self._actions.append(int(action))
        return self.env.step(action)

    def progress(self) -> Progress:
        """Return the number of the current episode (-1 before the first reset) and the actions taken in it."""
        return {"episode": self._episode, "actions": list(self._actions)}

    def restore(self, progress: Progress) -> ObsType:
        """Bring the environment to where ``progress()`` was called and return the observation there.

        Raises:
            UserError: nothing had begun, or the actions do not fit this environment.
        """
        episode, actions = progress["episode"], progress["actions"]
        if episode < 0:
            raise UserError("nothing to restore: progress was taken before the first reset; call reset() instead")
        observation, _ = self._begin(episode)
        for number, action in enumerate(actions, start=1):
            if not self.action_space.contains(action):
                raise UserError(f"progress does not fit {self}: action {action!r} is not in {self.action_space}")
            observation, _, terminated, truncated, _ = self.step(action)
            if (terminated or truncated) and number < len(actions):
                raise UserError(f"progress does not fit {self}: it ends after {number} of {len(actions)} actions")
        return observation

    def _begin(self, episode: int) -> tuple[ObsType, dict[str, Any]]:
        self._episode = episode
        self._actions = []
        return self.env.reset(seed=episode_seed(self._seed, self._rank, episode))
