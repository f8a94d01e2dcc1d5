"""CartPole seen through its pixels, or in part; physics, reward and termination are gymnasium's CartPole-v1."""

from typing import Any

import cv2
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from numpy.typing import NDArray

from snnrl.errors import UserError

from .cartpole_scene import CLASSIC, COLOURS, GREY, SMALL, Palette, Scene, draw

Observation = NDArray[Any]


class DrawnCartPole(CartPoleEnv):
    """CartPole-v1 drawn by us, with another observation; subclasses say which.

    Args:
        observation_space: space of the observation.
        scene: geometry of ``render()``, in colour.
        render_mode: None, or ``"rgb_array"`` to make ``render()`` available.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - gymnasium's way

    def __init__(self, observation_space: spaces.Box, scene: Scene, render_mode: str | None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = observation_space
        self._scene = scene

    def _first_observation(self) -> Observation:
        """Return the observation at the start of an episode."""
        raise NotImplementedError

    def _next_observation(self) -> Observation:
        """Return the observation after a step."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode as CartPole-v1 does and return its first observation."""
        _, info = super().reset(seed=seed, options=options)
        return self._first_observation(), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance the physics as CartPole-v1 does and return the next observation."""
        _, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return self._next_observation(), reward, terminated, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """Return the current state as an RGB picture (height, width, 3).

        Raises:
            UserError: the environment was not made with ``render_mode="rgb_array"``.
        """
        if self.render_mode != "rgb_array":
            raise UserError(f"render() needs render_mode='rgb_array', this environment has {self.render_mode!r}")
        picture = np.empty((self._scene.height, self._scene.width, 3), np.uint8)
        self._draw(picture, self._scene, COLOURS)
        return picture

    def _draw(self, canvas: NDArray[np.uint8], scene: Scene, palette: Palette) -> None:
        assert self.state is not None, "reset() comes first"
        position, _, angle, _ = self.state
        draw(canvas, scene, palette, position, angle)


class PixelCartPole(DrawnCartPole):
    """The last three grey frames of CartPole: uint8 (3, 40, 90), oldest first.

    The whole track is in view; cart 128 and pole 255 on 0. At reset the first frame is repeated.
    ``render()`` gives the same scene in colour, nine times as large (360 x 810).
    """

    def __init__(self, render_mode: str | None = None) -> None:
        self._frames: NDArray[np.uint8] = np.zeros((3, SMALL.height, SMALL.width), np.uint8)
        super().__init__(spaces.Box(0, 255, self._frames.shape, np.uint8), SMALL.enlarged(9), render_mode)

    def _first_observation(self) -> Observation:
        self._draw(self._frames[-1], SMALL, GREY)
        self._frames[:-1] = self._frames[-1]
        return np.copy(self._frames)

    def _next_observation(self) -> Observation:
        self._frames[:-1] = self._frames[1:]
        self._draw(self._frames[-1], SMALL, GREY)
        return np.copy(self._frames)


class PixelCartPolePaper(DrawnCartPole):
    """The protocol of the one-timestep paper: current minus previous screen, float32 (3, 40, 90) in [-1, 1].

    A screen is CartPole's classic 600x400 picture: rows 40-80 % are kept and the 60 % of the columns centred on the
    cart (the window stops at the screen's ends), which is 160x360, averaged over 4x4 pixels to RGB 40x90 and divided
    by 255. Since the window follows the cart, the cart's own motion hardly shows but near the ends. The first
    observation of an episode is zero, and there is no limit on the number of steps (CartPole-v0, unwrapped).

    Source: Chowdhury, Rathi and Roy, "One timestep is all you need" (arXiv:2110.05929), A.5.1, whose settings are those
    of PyTorch's screen-based DQN tutorial; the crop is the tutorial's, which shrinks by cubic interpolation instead.
    """

    _ROWS = slice(CLASSIC.height * 4 // 10, CLASSIC.height * 8 // 10)
    _WINDOW = CLASSIC.width * 6 // 10
    _SHAPE = (3, 40, 90)

    def __init__(self, render_mode: str | None = None) -> None:
        self._canvas = np.empty((CLASSIC.height, CLASSIC.width, 3), np.uint8)
        self._previous = np.zeros(self._SHAPE, np.float32)
        super().__init__(spaces.Box(-1.0, 1.0, self._SHAPE, np.float32), CLASSIC, render_mode)

    def _first_observation(self) -> Observation:
        self._previous = self._screen()
        return np.zeros_like(self._previous)

    def _next_observation(self) -> Observation:
        current = self._screen()
        difference = current - self._previous
        self._previous = current
        return difference

    def _screen(self) -> NDArray[np.float32]:
        self._draw(self._canvas, CLASSIC, COLOURS)
        assert self.state is not None
        cart_column = int(self.state[0] * CLASSIC.scale + CLASSIC.width / 2)
        left = min(max(cart_column - self._WINDOW // 2, 0), CLASSIC.width - self._WINDOW)
        picture: NDArray[Any] = self._canvas[self._ROWS, left : left + self._WINDOW]
        for _ in range(2):  # OpenCV halves twice in less than half the time of one step by four
            picture = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        screen: NDArray[np.float32] = np.divide(picture.transpose(2, 0, 1), 255, dtype=np.float32, order="C")
        return screen


class MaskedCartPole(DrawnCartPole):
    """CartPole without its velocities: float32 (2,), the cart's position and the pole's angle.

    Bounds are CartPole-v1's. One observation does not tell which way the pole falls, two in a row do.
    """

    _SEEN = (0, 2)

    def __init__(self, render_mode: str | None = None) -> None:
        seen = CartPoleEnv().observation_space
        assert isinstance(seen, spaces.Box)
        bounds = (seen.low[[*self._SEEN]], seen.high[[*self._SEEN]])
        super().__init__(spaces.Box(*bounds, dtype=np.float32), CLASSIC, render_mode)

    def _first_observation(self) -> Observation:
        return self._next_observation()

    def _next_observation(self) -> Observation:
        return np.array(self.state, np.float32)[[*self._SEEN]]
