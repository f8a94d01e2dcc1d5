"""Games of the Arcade Learning Environment as a vectorised environment of stable-baselines3."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from snnrl.envs.atari import AtariGames, AtariProtocol
from snnrl.envs.seeded_games import GameProgress, SeededGames


class AtariVecEnv(VecEnv):
    """``count`` games stepped together by ale-py's threads, in SB3's terms.

    Observations are uint8 ``(count, stack, size, size)``. Under the protocol's ``life_loss`` a lost life ends the
    episode, and under ``clip_rewards`` rewards are signs; ``info["episode"]``, which comes with a game's end, counts
    the whole game and the unclipped rewards, as SB3's Monitor below its AtariWrapper does.

    Raises:
        UserError: there is no game of this name, or its ROM is missing.
    """

    def __init__(self, game: str, count: int, protocol: AtariProtocol, seed: int) -> None:
        self.game, self.protocol = game, protocol
        self._games = SeededGames(AtariGames(game, count, protocol), seed)
        self._actions = np.zeros(count, np.int64)
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, np.int64)
        self._started = time.monotonic()
        self._observations: NDArray[np.uint8] | None = None
        super().__init__(count, self._games.games.observation_space, self._games.games.action_space)

    def reset(self) -> VecEnvObs:
        """Begin the next episode of every game."""
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._observations = self._games.reset()
        return self._observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Take the actions; return observations, rewards, dones and infos."""
        frames, self._observations = self._games.step(self._actions)
        ended = frames.over | frames.truncated
        dones = ended | frames.life_lost if self.protocol.life_loss else ended
        self._returns += frames.rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = frames.observations[index]
            infos[index]["TimeLimit.truncated"] = bool(frames.truncated[index])
            if ended[index]:
                seconds = round(time.monotonic() - self._started, 6)
                infos[index]["episode"] = {
                    "r": float(self._returns[index]),
                    "l": int(self._lengths[index]),
                    "t": seconds,
                }
        self._returns[ended], self._lengths[ended] = 0, 0
        rewards = np.sign(frames.rewards) if self.protocol.clip_rewards else frames.rewards
        return self._observations, rewards, dones, infos

    def progress(self) -> dict[str, Any]:
        """Return what ``restore`` needs, ready for JSON."""
        return {
            "games": self._games.progress(),
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
        }

    def restore(self, progress: dict[str, Any]) -> NDArray[np.uint8]:
        """Bring all games to where ``progress()`` was called and return the observations there.

        Raises:
            UserError: the progress is that of other games.
        """
        games: Sequence[GameProgress] = progress["games"]
        self._observations = self._games.restore(games)
        self._returns[:], self._lengths[:] = progress["returns"], progress["lengths"]
        return self._observations

    def close(self) -> None:
        """Stop the emulators' threads."""
        self._games.games.close()

    def get_images(self) -> list[NDArray[np.uint8] | None]:
        """Return the newest frame of every game, grey as RGB."""
        assert self._observations is not None, "reset() comes first"
        return [np.stack([frames[-1]] * 3, axis=-1) for frames in self._observations]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of this object, once for each of the games asked for."""
        value = "rgb_array" if attr_name == "render_mode" else getattr(self, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refuse: games have no attributes of their own.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"games are stepped together, {attr_name!r} cannot be set for one of them")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: games have no methods of their own.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"games are stepped together, {method_name!r} cannot be called on one of them")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Say that every game has what SB3's Monitor does, and no other wrapper."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]
