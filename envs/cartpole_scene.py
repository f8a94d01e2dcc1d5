"""How a cart-pole state becomes a picture: anti-aliased OpenCV drawing with sub-pixel coordinates."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
_FRACTION_BITS = 8  # OpenCV takes fixed-point coordinates: 1/256 pixel


class Palette(NamedTuple):
    """Colours of a scene, RGB in 0..255; the background is one grey level, a grey canvas takes each first channel."""

    background: int
    track: Colour
    cart: Colour
    pole: Colour
    axle: Colour


@dataclass(frozen=True)
class Scene:
    """Where things are drawn: lengths and rows in pixels, an integer coordinate is a pixel's centre.

    Attributes:
        height: rows of the picture.
        width: columns of the picture; the middle of the track is in the middle column.
        scale: pixels per metre of track.
        cart_row: row of the cart's centre and of the track.
        cart_size: the cart's (width, height).
        pole_size: the pole's (width, length from axle to tip).
        axle_rise: height of the axle above the cart's centre.
    """

    height: int
    width: int
    scale: float
    cart_row: float
    cart_size: tuple[float, float]
    pole_size: tuple[float, float]
    axle_rise: float

    def enlarged(self, factor: int) -> "Scene":
        """Return the same scene with ``factor`` x ``factor`` pixels in place of each one."""
        return replace(
            self,
            height=self.height * factor,
            width=self.width * factor,
            scale=self.scale * factor,
            cart_row=(self.cart_row + 0.5) * factor - 0.5,
            cart_size=(self.cart_size[0] * factor, self.cart_size[1] * factor),
            pole_size=(self.pole_size[0] * factor, self.pole_size[1] * factor),
            axle_rise=self.axle_rise * factor,
        )


# The whole track with a fallen pole at either end; the pole is 1.75 m long (1 m in the physics) to use the rows above
# the cart: one degree moves its tip by half a pixel.
SMALL = Scene(40, 90, scale=16.0, cart_row=33.0, cart_size=(8.0, 5.0), pole_size=(2.0, 28.0), axle_rise=1.5)
# CartPole's own 600x400 screen.
CLASSIC = Scene(400, 600, scale=125.0, cart_row=299.0, cart_size=(50.0, 30.0), pole_size=(10.0, 120.0), axle_rise=7.5)

# Dark, without a track (it never moves): most of a network's input is zero.
GREY = Palette(background=0, track=(0, 0, 0), cart=(128,) * 3, pole=(255,) * 3, axle=(255,) * 3)
COLOURS = Palette(background=255, track=(0, 0, 0), cart=(0, 0, 0), pole=(202, 152, 101), axle=(129, 132, 203))


def draw(canvas: NDArray[np.uint8], scene: Scene, palette: Palette, position: float, angle: float) -> None:
    """Draw a state into ``canvas``, in place.

    Args:
        canvas: picture (height, width) or (height, width, 3), contiguous; overwritten.
        scene: the geometry.
        palette: the colours.
        position: the cart's position in metres, 0 in the middle of the track.
        angle: the pole's angle in radians, 0 upright, positive to the right.
    """
    canvas.fill(palette.background)
    row, column = scene.cart_row, (scene.width - 1) / 2 + scene.scale * position
    axle_row = row - scene.axle_rise
    cart_x, cart_y = scene.cart_size[0] / 2, scene.cart_size[1] / 2
    pole_x, tip = scene.pole_size[0] / 2, scene.pole_size[1]
    sine, cosine = math.sin(angle), math.cos(angle)

    cv2.line(canvas, (0, round(row)), (scene.width, round(row)), palette.track)
    _polygon(
        canvas,
        [(column + across, row + down) for across, down in _corners(cart_x, -cart_y, cart_y)],
        palette.cart,
    )
    _polygon(
        canvas,
        [
            (column + across * cosine + along * sine, axle_row + across * sine - along * cosine)
            for across, along in _corners(pole_x, -pole_x, tip)
        ],
        palette.pole,
    )
    centre = (_fixed(column), _fixed(axle_row))
    cv2.circle(canvas, centre, _fixed(pole_x), palette.axle, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)


def _corners(half_width: float, start: float, end: float) -> list[tuple[float, float]]:
    return [(-half_width, start), (-half_width, end), (half_width, end), (half_width, start)]


def _fixed(coordinate: float) -> int:
    return round(coordinate * (1 << _FRACTION_BITS))


def _polygon(canvas: NDArray[np.uint8], corners: list[tuple[float, float]], colour: Colour) -> None:
    points = np.array([(_fixed(x), _fixed(y)) for x, y in corners], np.int32)
    cv2.fillConvexPoly(canvas, points, colour, cv2.LINE_AA, _FRACTION_BITS)
