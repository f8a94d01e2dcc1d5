"""Exact resumption of many games at once: every episode has its own seed, and its actions are recorded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrl.errors import UserError

from .atari import AtariGames, Frames
from .seeded_episodes import Progress, episode_seed


class SeededGames:
    """Games that begin anew by themselves: ``restore(progress())`` in a new process goes on bit for bit.

    Episode ``e`` of game ``i`` has the seed that it would have in :class:`snnrl.envs.SeededEpisodes` of rank ``i``.
    """

    def __init__(self, games: AtariGames, seed: int) -> None:
        self.games = games
        self.seed = seed
        self._progress: list[Progress] = [{"episode": -1, "actions": []} for _ in range(games.count)]

    def reset(self) -> NDArray[np.uint8]:
        """Begin the next episode of every game and return the observations ``(N, ...)``."""
        return self._begin(np.ones(self.games.count, bool))

    def step(self, actions: NDArray[np.integer[Any]]) -> tuple[Frames, NDArray[np.uint8]]:
        """Take one action in every game; return what came of it, and the observations to go on from.

        These are the same, but for games that ended: there the next episode's first observation stands.
        """
        for progress, action in zip(self._progress, actions.tolist(), strict=True):
            progress["actions"].append(action)
        frames = self.games.step(actions)
        ended = frames.over | frames.truncated
        return frames, self._begin(ended) if ended.any() else frames.observations

    def progress(self) -> list[Progress]:
        """Return for every game the number of its episode and the actions taken in it."""
        return [{"episode": game["episode"], "actions": list(game["actions"])} for game in self._progress]

    def restore(self, progress: Sequence[Progress]) -> NDArray[np.uint8]:
        """Bring all games to where ``progress()`` was called and return the observations there.

        The emulators only step together: games that had fewer steps begin later, so that all arrive at one time.

        Raises:
            UserError: the progress is that of other games.
        """
        if len(progress) != self.games.count:
            raise UserError(f"progress of {len(progress)} games cannot be restored in {self.games.count}")
        longest = max(len(game["actions"]) for game in progress)
        observations = self.reset()
        for ahead in range(longest, -1, -1):
            begin = np.array([len(game["actions"]) == ahead for game in progress])
            if begin.any():
                for index in np.flatnonzero(begin).tolist():
                    self._progress[index]["episode"] = progress[index]["episode"] - 1
                observations = self._begin(begin)
            if ahead:
                actions = [game["actions"][-ahead] if len(game["actions"]) >= ahead else 0 for game in progress]
                _, observations = self.step(np.array(actions))
        if any(ours["episode"] != theirs["episode"] for ours, theirs in zip(self._progress, progress, strict=True)):
            raise UserError(f"the progress does not fit {self.games.game}: a game ends before its actions do")
        return observations

    def _begin(self, chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
        seeds = []
        for index in np.flatnonzero(chosen).tolist():
            episode = self._progress[index]["episode"] + 1
            self._progress[index] = {"episode": episode, "actions": []}
            seeds.append(episode_seed(self.seed, index, episode))
        return self.games.reset(seeds, chosen)
