"""Exact resumption of many games at once: seeds come at known episodes, and an episode's actions are recorded."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrl.errors import UserError

from .atari import AtariGames, Frames
from .seeded_episodes import Progress, episode_seed

EPISODES_PER_SEED = 32
"""Where resets are repeatable. A seed costs ten times as much as a reset, and restoring repeats the resets since it."""


class GameProgress(Progress):
    """Where a game stands, ready for JSON; ``seen``, its observation's CRC-32, shows if restoring came out right."""

    seen: int


class SeededGames:
    """Games that begin anew by themselves: ``restore(progress())`` in a new process goes on bit for bit.

    Every :data:`EPISODES_PER_SEED`-th episode of a game is seeded, and every one where resets are not repeatable.
    Episode ``e`` of game ``i`` has the seed that it would have in :class:`snnrl.envs.SeededEpisodes` of rank ``i``.
    """

    def __init__(self, games: AtariGames, seed: int) -> None:
        self.games = games
        self.seed = seed
        self._episodes_per_seed = EPISODES_PER_SEED if games.repeatable else 1
        self._episodes = np.full(games.count, -1)
        self._actions: list[list[int]] = [[] for _ in range(games.count)]
        self._observations = np.zeros((games.count, *(games.observation_space.shape or ())), np.uint8)

    def reset(self) -> NDArray[np.uint8]:
        """Begin the next episode of every game and return the observations ``(N, ...)``."""
        self._begin(np.ones(self.games.count, bool))
        return self._observations

    def step(self, actions: NDArray[np.integer[Any]]) -> tuple[Frames, NDArray[np.uint8]]:
        """Take one action in every game; return what came of it, and the observations to go on from.

        These are the same, but for games that ended: there the next episode's first observation stands.
        """
        for taken, action in zip(self._actions, actions.tolist(), strict=True):
            taken.append(action)
        frames = self.games.step(actions)
        self._observations = frames.observations
        ended = frames.over | frames.truncated
        if ended.any():
            self._begin(ended)
        return frames, self._observations

    def progress(self) -> list[GameProgress]:
        """Return for every game the number of its episode, the actions taken in it and what is seen now."""
        return [
            {"episode": episode, "actions": list(actions), "seen": zlib.crc32(observation.tobytes())}
            for episode, actions, observation in zip(
                self._episodes.tolist(), self._actions, self._observations, strict=True
            )
        ]

    def restore(self, progress: Sequence[GameProgress]) -> NDArray[np.uint8]:
        """Bring all games to where ``progress()`` was called and return the observations there.

        The emulators only step together: games that had fewer steps begin later, so that all arrive at one time.

        Raises:
            UserError: the progress is that of other games, or nothing had begun.
        """
        if len(progress) != self.games.count:
            raise UserError(f"progress of {len(progress)} games cannot be restored in {self.games.count}")
        episodes = np.array([game["episode"] for game in progress])
        if episodes.min() < 0:
            raise UserError("nothing to restore: progress was taken before the first reset; call reset() instead")
        seeded = episodes - episodes % self._episodes_per_seed
        self.reset()
        for ahead in range(max(len(game["actions"]) for game in progress), -1, -1):
            begin = np.array([len(game["actions"]) == ahead for game in progress])
            self._episodes[begin] = seeded[begin] - 1
            while begin.any():
                self._begin(begin)
                begin &= self._episodes < episodes
            if ahead:
                actions = [game["actions"][-ahead] if len(game["actions"]) >= ahead else 0 for game in progress]
                self.step(np.array(actions))
        if self.progress() != list(progress):
            raise UserError(f"the progress does not fit {self.games.game}: its actions lead elsewhere")
        return self._observations

    def _begin(self, chosen: NDArray[np.bool_]) -> None:
        self._episodes[chosen] += 1
        seeds: list[int | None] = []
        for index in np.flatnonzero(chosen).tolist():
            self._actions[index] = []
            episode = int(self._episodes[index])
            seeds.append(None if episode % self._episodes_per_seed else episode_seed(self.seed, index, episode))
        self._observations = self.games.reset(seeds, chosen)
