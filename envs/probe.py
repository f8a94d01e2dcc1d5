"""Tiny worlds whose optimal Q-values are known: an agent that fails one has a bug that the world's name points at.

All have two actions. ``g`` is the discount.
"""

from typing import Any, ClassVar

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from snnrl.errors import UserError

_PICTURE = 144


class Probe(gymnasium.Env[NDArray[Any], int]):
    """A world of single numbers in [-1, 1]: drawn from ``STARTS``, followed by ``NEXT``, over where that has no entry.

    The observation is the number, float32 (1,); the last one is shown again when the episode is over.

    Args:
        render_mode: None, or ``"rgb_array"`` to make ``render()`` available.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - gymnasium's way
    STARTS: ClassVar[tuple[float, ...]] = (0.0,)
    NEXT: ClassVar[dict[float, float]] = {}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space: spaces.Space[NDArray[Any]] = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Discrete(2)  # type: ignore[assignment]
        self._value = self.STARTS[0]

    def reward(self, value: float, action: int) -> float:
        """Return the reward of ``action`` where ``value`` is observed."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Draw one of the starts with equal probability."""
        super().reset(seed=seed)
        self._value = self.STARTS[self.np_random.integers(len(self.STARTS))]
        return self._observation(), {}

    def step(self, action: int) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Pay the reward and move on; the episode terminates where no number follows."""
        reward = self.reward(self._value, int(action))
        terminated = self._value not in self.NEXT
        self._value = self.NEXT.get(self._value, self._value)
        return self._observation(), reward, terminated, False, {}

    def render(self) -> NDArray[np.uint8]:
        """Return an RGB picture (144, 144, 3) of the observation, black -1 to white 1.

        Raises:
            UserError: the environment was not made with ``render_mode="rgb_array"``.
        """
        if self.render_mode != "rgb_array":
            raise UserError(f"render() needs render_mode='rgb_array', this environment has {self.render_mode!r}")
        picture = cv2.resize(self._picture(), (_PICTURE, _PICTURE), interpolation=cv2.INTER_NEAREST)
        return np.repeat(picture[..., None], 3, axis=2)

    def _observation(self) -> NDArray[Any]:
        return np.array([self._value], np.float32)

    def _picture(self) -> NDArray[np.uint8]:
        return np.array([[round(127.5 * (1 + self._value))]], np.uint8)


class ProbeConstant(Probe):
    """One step, reward 1: Q(0, a) = 1. A failure points at the loss or the optimiser."""

    def reward(self, value: float, action: int) -> float:
        """Return 1."""
        return 1.0


class ProbeObservation(Probe):
    """One step, observation -1 or 1, reward = observation: Q(s, a) = s. A failure points at the network's input."""

    STARTS = (-1.0, 1.0)

    def reward(self, value: float, action: int) -> float:
        """Return the observation."""
        return value


class ProbeDelayed(Probe):
    """Two steps, 0 then 1, rewards 0 then 1: Q(0, a) = g, Q(1, a) = 1. A failure points at the bootstrap."""

    NEXT: ClassVar[dict[float, float]] = {0.0: 1.0}

    def reward(self, value: float, action: int) -> float:
        """Return the observation."""
        return value


class ProbeAction(Probe):
    """One step, reward -1 for action 0 and 1 for action 1: Q(0, a) = 2 a - 1. A failure points at the exploration."""

    def reward(self, value: float, action: int) -> float:
        """Return 2 * action - 1."""
        return 2.0 * action - 1.0


class ProbePolicy(Probe):
    """One step, observation -1 or 1, reward 1 if action 0 meets -1 or action 1 meets 1, else -1: Q(s, a) = s (2 a - 1).

    A failure that no other probe shows points at the batch: observations and actions mixed up.
    """

    STARTS = (-1.0, 1.0)

    def reward(self, value: float, action: int) -> float:
        """Return observation * (2 * action - 1)."""
        return value * (2.0 * action - 1.0)


class ProbePixels(ProbePolicy):
    """``ProbePolicy`` in pixels, uint8 (1, 36, 36): left half bright (255, else 0) means action 0, right half action 1.

    Q(left, 0) = Q(right, 1) = 1, Q(left, 1) = Q(right, 0) = -1. A failure points at the convolutions or at the scaling.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def _observation(self) -> NDArray[Any]:
        return self._picture()[None]

    def _picture(self) -> NDArray[np.uint8]:
        picture = np.zeros((36, 36), np.uint8)
        picture[:, slice(0, 18) if self._value < 0 else slice(18, 36)] = 255
        return picture


class ProbeMemory(Probe):
    """Three steps, a cue of -1 or 1 and then 0 twice; reward cue * (2 a - 1) for the last action, 0 before.

    Q = g^2, then g for both actions, then cue * (2 a - 1); without memory the last one is 0. A failure points at the
    state that passes from one decision to the next.
    """

    STARTS = (-1.0, 1.0)
    LENGTH = 3

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self._cue, self._left = self._value, self.LENGTH

    def reward(self, value: float, action: int) -> float:
        """Return cue * (2 * action - 1) at the last step, else 0."""
        return self._cue * (2.0 * action - 1.0) if self._left == 1 else 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Draw the cue."""
        observation, info = super().reset(seed=seed, options=options)
        self._cue, self._left = self._value, self.LENGTH
        return observation, info

    def step(self, action: int) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        """Pay the reward and show 0; the episode terminates after three steps."""
        reward = self.reward(self._value, int(action))
        self._left -= 1
        self._value = 0.0
        return self._observation(), reward, self._left == 0, False, {}
