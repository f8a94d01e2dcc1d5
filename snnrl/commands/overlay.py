"""A frame of a video that shows a decision: the game, every layer's spikes, Q-values, energy and reward."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""RGB ``(height, width, 3)``."""

WIDTH, HEIGHT = 720, 380
"""Even, as video codecs ask; four fifths of the time go into compressing so many pixels."""
SIDE = 216
"""Width of the left column: game, Q-values, energy."""
MARGIN = 8
LINE = 15
"""Height of a line of text."""
GAME_HEIGHT = 150
MOST_ROWS = 5
"""Layers in a column."""

BACKGROUND, SILENT, TEXT, QUIET, SPIKE = (18, 20, 26), (38, 42, 52), (225, 228, 235), (120, 126, 140), (255, 196, 60)


class Decision(NamedTuple):
    """What a network did to decide once."""

    steps: int
    """T."""
    spikes: Mapping[str, NDArray[np.float32]]
    """By layer, of each neuron over the T steps: ``(channels, height, width)`` or ``(neurons,)``."""
    q_values: NDArray[np.float32]
    """Of every action."""
    spiking_nJ: float
    """Energy of the decision."""
    ordinary_nJ: float
    """Energy of the ordinary network's."""


def draw(game: Image, decision: Decision, actions: Sequence[str], reward: float) -> Image:
    """Return the frame ``(380, 720, 3)`` of a decision, ``reward`` being what the episode has brought so far."""
    frame = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    place(frame, fit(game, SIDE, GAME_HEIGHT), MARGIN, MARGIN)
    top = MARGIN + GAME_HEIGHT + LINE
    write(frame, f"reward {reward:g}", MARGIN, top)
    top = draw_energy(frame, decision, top + LINE)
    draw_q_values(frame, decision.q_values, actions, top + LINE)
    columns = math.ceil(len(decision.spikes) / MOST_ROWS)
    rows = math.ceil(len(decision.spikes) / columns)
    left, width = SIDE + 4 * MARGIN, (WIDTH - SIDE - 4 * MARGIN) // columns
    height = (HEIGHT - MARGIN) // rows
    for number, (name, spikes) in enumerate(decision.spikes.items()):
        x, y = left + number // rows * width, MARGIN + number % rows * height
        shape = "x".join(map(str, spikes.shape))
        write(frame, f"{name}  {shape}  {spikes.mean():.3f} spikes per neuron", x, y)
        room = width - MARGIN, height - LINE - MARGIN
        place(frame, fit(shade(tiles(spikes / np.float32(decision.steps), *room)), *room, whole=True), x, y + LINE)
    return frame


def draw_energy(frame: Image, decision: Decision, top: int) -> int:
    """Draw the energy of the decision under ``top``, and return where it ends."""
    energies = {"ordinary": decision.ordinary_nJ, f"spiking, T={decision.steps}": decision.spiking_nJ}
    for name, energy in energies.items():
        write(frame, f"{name}: {energy:,.1f} nJ", MARGIN, top)
        length = round(SIDE * energy / max(*energies.values(), 1e-9))
        frame[top + LINE : top + LINE + 4, MARGIN : MARGIN + length] = SPIKE if "spiking" in name else QUIET
        top += LINE + 8
    return top


def draw_q_values(frame: Image, q_values: NDArray[np.float32], actions: Sequence[str], top: int) -> None:
    """Draw a bar for each action, from the least Q-value to the largest, which is chosen."""
    row = min(LINE, (HEIGHT - MARGIN - top) // len(q_values))
    least, spread = q_values.min(), max(float(np.ptp(q_values)), 1e-9)
    bar = MARGIN + SIDE * 6 // 10
    for action, (name, value) in enumerate(zip(actions, q_values, strict=True)):
        colour = SPIKE if action == q_values.argmax() else QUIET
        y = top + action * row
        write(frame, f"{name} {value:.3f}", MARGIN, y, colour, row)
        length = round(1 + (MARGIN + SIDE - bar - 1) * float(value - least) / spread)
        frame[y + 2 : y + row - 1, bar : bar + length] = colour


def tiles(values: NDArray[np.float32], room: int, room_below: int) -> NDArray[np.float32]:
    """Return feature maps ``(channels, height, width)`` side by side, or neurons ``(neurons,)`` as a grid.

    There are as many in a row as can be drawn largest in so many pixels across and down. NaN lies between maps and
    where there are none.
    """
    maps = values.reshape(-1, 1, 1) if values.ndim == 1 else values.reshape(-1, *values.shape[-2:])
    gap = 0 if values.ndim == 1 else 1
    maps = np.pad(maps, ((0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    count, height, width = maps.shape

    def goodness(across: int) -> tuple[float, int]:
        down = math.ceil(count / across)
        factor = min(room / (across * width), room_below / (down * height))
        return int(factor) or factor, -across * down

    across = max(range(1, count + 1), key=goodness)
    down = math.ceil(count / across)
    maps = np.pad(maps, ((0, across * down - count), (0, 0), (0, 0)), constant_values=np.nan)
    rows = maps.reshape(down, across, height, width).swapaxes(1, 2)
    return np.asarray(rows.reshape(down * height, across * width), np.float32)


def shade(values: NDArray[np.float32]) -> Image:
    """Return values between 0 and 1 as colours, from silent to a spike at every step; NaN is background."""
    silent, spike = np.array(SILENT, np.float32), np.array(SPIKE, np.float32)
    colours = silent + (spike - silent) * np.nan_to_num(values)[..., None]
    return np.asarray(np.where(np.isnan(values)[..., None], BACKGROUND, colours).round(), np.uint8)


def fit(image: Image, width: int, height: int, *, whole: bool = False) -> Image:
    """Return the image as large as fits; with ``whole`` it is enlarged by whole numbers: all pixels stay equal."""
    factor = min(width / image.shape[1], height / image.shape[0])
    enlarged = whole and factor >= 1
    factor = int(factor) if enlarged else factor
    size = max(1, int(image.shape[1] * factor)), max(1, int(image.shape[0] * factor))
    way = cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8)


def place(frame: Image, image: Image, left: int, top: int) -> None:
    """Copy an image into the frame."""
    frame[top : top + image.shape[0], left : left + image.shape[1]] = image


def write(
    frame: Image, text: str, left: int, top: int, colour: tuple[int, int, int] = TEXT, height: int = LINE
) -> None:
    """Write a line of text of this height below ``top``."""
    scale = 0.38 * min(height, LINE) / LINE
    cv2.putText(frame, text, (left, top + height - 4), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
