"""Draw what ``loop --csv`` recorded as an animation: ``python draw.py episode.csv demo.gif``."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frame = NDArray[np.uint8]
Colour = tuple[int, int, int]
Point = tuple[int, int]

WIDTH, HEIGHT = 640, 400
FRAME = 50
"""Milliseconds."""
COLOURS = 16
INK, GREY, PALE, RED, BLUE = (40, 40, 40), (150, 150, 150), (215, 215, 215), (200, 50, 40), (30, 90, 190)
TRACK_Y, METRE, POLE = 170, 120, 130
"""Pixels; the pole's length is not to scale."""


class Chart(NamedTuple):
    """A strip below the cart, over the whole episode."""

    title: str
    top: int
    bottom: int
    low: float
    high: float
    milliseconds: int

    def place(self, millisecond: float, value: float) -> Point:
        """Return the pixel of a value, held to the strip."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        x = 150 + (WIDTH - 170) * millisecond / self.milliseconds
        return round(x), round(self.bottom - share * (self.bottom - self.top))


def text(frame: Frame, words: str, at: Point, colour: Colour = INK, size: float = 0.42) -> None:
    """Write a line."""
    cv2.putText(frame, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def empty(charts: list[Chart], levels: list[list[tuple[float, str]]]) -> Frame:
    """Return the frame before the episode: strips, their titles and levels."""
    frame = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for chart, lines in zip(charts, levels, strict=True):
        text(frame, chart.title, (12, (chart.top + chart.bottom) // 2 + 4))
        for value, label in lines:
            left, right = chart.place(0, value), chart.place(chart.milliseconds, value)
            cv2.line(frame, left, right, PALE, 1)
            text(frame, label, (left[0] - 42, left[1] + 4), GREY, 0.34)
    return frame


def draw_cart(frame: Frame, position: float, angle: float, force: float, second: float) -> None:
    """Draw the cart on its track, its pole, and the force as an arrow."""
    text(frame, f"{second:5.2f} s", (12, 24))
    middle = WIDTH // 2
    cv2.line(frame, (middle - int(2.4 * METRE), TRACK_Y + 14), (middle + int(2.4 * METRE), TRACK_Y + 14), GREY, 2)
    x = round(middle + position * METRE)
    cv2.rectangle(frame, (x - 28, TRACK_Y - 10), (x + 28, TRACK_Y + 10), INK, -1)
    tip = (round(x + POLE * np.sin(angle)), round(TRACK_Y - 10 - POLE * np.cos(angle)))
    cv2.line(frame, (x, TRACK_Y - 10), tip, BLUE, 6, cv2.LINE_AA)
    side = 1 if force > 0 else -1
    start = x + 32 * side
    cv2.arrowedLine(frame, (start, TRACK_Y), (round(start + force * 6), TRACK_Y), RED, 2, cv2.LINE_AA, tipLength=0.2)


def frames(rows: NDArray[np.void]) -> Iterator[Frame]:
    """Yield the frames of an episode; strips fill from left to right."""
    length = len(rows)
    charts = [
        Chart("angle, degrees", 215, 275, -6, 6, length),
        Chart("force, newtons", 290, 330, -10, 10, length),
        Chart("decision", 345, 390, 0, 4, length),
    ]
    strips = empty(
        charts,
        [
            [(-6, "-6"), (0, "0"), (6, "6")],
            [(-10, "-10"), (0, "0"), (10, "10")],
            [(0, "1 us"), (1, ""), (2, "0.1 ms"), (3, ""), (4, "10 ms")],
        ],
    )
    angles, forces, decisions = charts
    angle, read = np.degrees(rows["angle"]), np.degrees(rows["angle_read"])
    for start in range(0, length - FRAME + 1, FRAME):
        end = start + FRAME
        for moment in range(start, end, 10):
            cv2.circle(strips, angles.place(moment, read[moment]), 1, GREY, -1)
        before = max(start - 1, 0)
        cv2.line(strips, angles.place(before, angle[before]), angles.place(end - 1, angle[end - 1]), BLUE, 2)
        force = float(rows["force"][start:end].mean())
        cv2.rectangle(strips, forces.place(start, 0), forces.place(end - 1, force), RED, -1)
        slowest = float(rows["nanoseconds"][start:end].max())
        cv2.circle(strips, decisions.place(start, np.log10(slowest / 1000)), 1, INK, -1)
        frame = strips.copy()
        draw_cart(frame, rows["position"][end - 1], rows["angle"][end - 1], force, end / 1000)
        yield frame


def main(source: Path, out: Path) -> None:
    """Read the record, write the film."""
    rows = np.genfromtxt(source, delimiter=",", names=True)
    images = [Image.fromarray(frame) for frame in frames(rows)]
    palette = images[-1].quantize(COLOURS)
    first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    first.save(out, save_all=True, append_images=others, duration=FRAME, loop=0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
