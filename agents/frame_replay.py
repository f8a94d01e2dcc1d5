"""A replay buffer that stores every frame once; stacks are put together when they are sampled."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from snnrl.errors import UserError

LOOSE = ("before", "before_at", "after", "after_at")
"""Names under which frames are saved that do not stand in a row, and the places that they belong to."""

Frames = NDArray[np.uint8]
Index = NDArray[np.integer[Any]]


class FrameReplayBuffer(ReplayBuffer):
    """Replay of stacked frames ``(stack, H, W)`` for SB3's DQN (``replay_buffer_class``), with n-step returns.

    A row holds the newest frame of every environment's observation; the older ones are those of the rows before it.
    Where that is not so, at the ends of episodes, the odd frames are kept aside. A sample holds the return
    r_0 + gamma r_1 + ... over k steps and the observation after them, where k is ``n_steps``, or less at the end of an
    episode and at the newest row, as in SB3's ``NStepReplayBuffer``. ``buffer_size`` counts the frames of all
    environments.

    Raises:
        UserError: the observations are not stacks of frames.
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
        n_steps: int = 1,
        gamma: float = 0.99,
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        if len(self.obs_shape) != 3 or observation_space.dtype != np.uint8:
            raise UserError(f"FrameReplayBuffer needs uint8 stacks of frames (stack, H, W), not {observation_space}")
        self.stack, *size = self.obs_shape
        self.buffer_size = rows = max(buffer_size // n_envs, self.stack + 2)
        self.n_steps, self.gamma = n_steps, gamma
        self.optimize_memory_usage, self.handle_timeout_termination = False, True  # in SB3's sense
        # an environment's frames lie side by side in memory, so that a stack is one piece
        self.frames: Frames = np.zeros((n_envs, rows, *size), np.uint8).swapaxes(0, 1)
        self.actions = np.zeros((rows, n_envs, self.action_dim), np.int64)
        self.rewards = np.zeros((rows, n_envs), np.float32)
        self.dones = np.zeros((rows, n_envs), np.bool_)
        self.timeouts = np.zeros((rows, n_envs), np.bool_)
        self.depth = np.zeros((rows, n_envs), np.uint8)
        """How many of the older frames stand in the rows before."""
        self.before: dict[tuple[int, int], Frames] = {}
        """The older frames ``(stack - 1, H, W)`` of a first observation, by row and environment; black if not here."""
        self.after: dict[tuple[int, int], Frames] = {}
        """The frame ``(H, W)`` after a step that ended an episode, by row and environment."""

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment.

        Raises:
            UserError: the next observations are not the observations moved on by a frame.
        """
        if not np.array_equal(next_obs[:, :-1], obs[:, 1:]):
            raise UserError("FrameReplayBuffer needs observations that move on by one frame a step: use SB3's buffer")
        row, previous = self.pos, (self.pos - 1) % self.buffer_size
        follows = np.zeros(self.n_envs, np.bool_)
        if self.full or row > 0:
            expected = self._gather(np.full(self.n_envs, previous), np.arange(self.n_envs), range(2 - self.stack, 2))
            follows = (obs == expected).reshape(self.n_envs, -1).all(axis=1)
            for env in np.flatnonzero(~follows & ~self.dones[previous]).tolist():  # reset from outside
                self.timeouts[previous, env] = True
                self.after[previous, env] = expected[env, -1].copy()
        for env in range(self.n_envs):
            for aside in (self.before, self.after):
                aside.pop((row, env), None)
            if not follows[env] and obs[env, :-1].any():
                self.before[row, env] = obs[env, :-1].copy()
            if done[env]:
                self.after[row, env] = next_obs[env, -1].copy()
        self.depth[row] = np.where(follows, np.minimum(self.depth[previous] + 1, self.stack - 1), 0)
        self.frames[row] = obs[:, -1]
        self.actions[row] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[row], self.dones[row] = reward, done
        self.timeouts[row] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.pos = (row + 1) % self.buffer_size
        self.full |= self.pos == 0
        self.frames[self.pos] = next_obs[:, -1]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw transitions uniformly, with numpy's global generator as SB3 does."""
        if self.full:  # the oldest rows have lost frames to the newest
            rows = (self.pos + np.random.randint(self.stack, self.buffer_size, batch_size)) % self.buffer_size  # noqa: NPY002
        else:
            rows = np.random.randint(0, self.pos, batch_size)  # noqa: NPY002
        return self._get_samples(rows, env)

    def _get_samples(self, batch_inds: Index, env: VecNormalize | None = None) -> ReplayBufferSamples:
        envs = np.random.randint(0, self.n_envs, len(batch_inds))  # noqa: NPY002
        return self.at(batch_inds, envs, env)

    def at(self, rows: Index, envs: Index, normalize: VecNormalize | None = None) -> ReplayBufferSamples:
        """Return the transitions that begin in these rows and environments, each ``(B,)``."""
        steps = np.arange(self.n_steps)
        newest = (self.pos - 1 - rows) % self.buffer_size  # steps from the row to the newest one
        following = (rows[:, None] + steps) % self.buffer_size
        over = self.dones[following, envs[:, None]] | self.timeouts[following, envs[:, None]]
        over |= steps == np.minimum(newest, self.n_steps - 1)[:, None]
        last_step = over.argmax(axis=1)
        rewards = self._normalize_reward(self.rewards[following, envs[:, None]], normalize)
        weights = self.gamma**steps * (steps <= last_step[:, None])
        last = following[np.arange(len(rows)), last_step]
        dones = self.dones[last, envs] & ~self.timeouts[last, envs]
        if self.n_steps == 1:  # the two stacks have all but one frame in common
            frames = self._gather(rows, envs, range(1 - self.stack, 2))
            observations, next_observations = frames[:, :-1], frames[:, 1:]
        else:
            observations = self._gather(rows, envs, range(1 - self.stack, 1))
            next_observations = self._gather(last, envs, range(2 - self.stack, 2))
        arrays = (
            self._normalize_obs(observations, normalize),
            self.actions[rows, envs],
            self._normalize_obs(next_observations, normalize),
            dones.astype(np.float32)[:, None],
            (rewards * weights).sum(1, keepdims=True).astype(np.float32),
            (self.gamma ** (last_step + 1.0)).astype(np.float32)[:, None],
        )
        # none of these arrays is the buffer's own
        return ReplayBufferSamples(*(self.to_torch(array, copy=False) for array in arrays))  # type: ignore[arg-type]

    def loose_frames(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Return the frames kept aside for these rows, and the newest ones, with the places they belong to."""
        newest = (self.pos - 1) % self.buffer_size
        after = {(newest, env): frame for env, frame in enumerate(self.frames[self.pos])} | self.after
        found: dict[str, NDArray[Any]] = {}
        height, width = self.frames.shape[2:]
        for name, aside, shape in (
            ("before", self.before, (self.stack - 1, height, width)),
            ("after", after, (height, width)),
        ):
            places = sorted(place for place in aside if start <= place[0] < stop)
            found[name] = np.array([aside[place] for place in places], np.uint8).reshape(len(places), *shape)
            found[f"{name}_at"] = np.array(places, np.int64).reshape(-1, 2)
        return found

    def put_loose_frames(self, loose: dict[str, NDArray[Any]]) -> None:
        """Put back what :meth:`loose_frames` returned.

        Raises:
            UserError: they belong to another buffer.
        """
        for name, aside in (("before", self.before), ("after", self.after)):
            places, frames = loose[f"{name}_at"], loose[name]
            if len(places) != len(frames) or ((places < 0) | (places >= (self.buffer_size, self.n_envs))).any():
                raise UserError(f"the replay buffer's frames {name} its episodes belong to another buffer")
            aside.update(zip(map(tuple, places.tolist()), frames, strict=True))

    def _gather(self, rows: Index, envs: Index, offsets: range) -> Frames:
        """Return frames ``(B, offsets, H, W)``; offset 0 is the newest of an observation, 1 that of the next one."""
        times = (rows[:, None] + np.array(offsets)) % self.buffer_size
        flat = self.frames.swapaxes(0, 1).reshape(-1, *self.frames.shape[2:])
        gathered: Frames = flat.take(envs[:, None] * self.buffer_size + times, axis=0)
        depths = self.depth[rows, envs].tolist()
        for index, (row, env, depth) in enumerate(zip(rows.tolist(), envs.tolist(), depths, strict=True)):
            missing = -offsets[0] - depth
            if missing > 0:
                before = self.before.get(((row - depth) % self.buffer_size, env))
                gathered[index, :missing] = 0 if before is None else before[-missing:]
            if offsets[-1] == 1 and (row, env) in self.after:
                gathered[index, -1] = self.after[row, env]
        return gathered
