"""Four windows cut out of maps and put together again, and maps that become fewer (arXiv 2401.10843).

Maps are ``(B, H, W, C)``; windows are ``(B, 4, C, h, w)``: top left, top right, bottom left and bottom right. Plain
ones are quadrants, h = H / 2; dilated ones, h = 3 H / 4, overlap by H / 2 rows, and in the same way by columns.
"""

import torch
from torch import Tensor
from torch.nn import functional


def spans(size: int, dilated: bool) -> tuple[slice, slice]:
    """Return where both windows lie along an axis, whose ``size`` is a multiple of 2, of dilated ones of 4."""
    window = 3 * size // 4 if dilated else size // 2
    return slice(0, window), slice(size - window, size)


def cut(maps: Tensor, dilated: bool) -> Tensor:
    """Return the windows ``(B, 4, C, h, w)`` of maps ``(B, H, W, C)``, each with its channels last in memory."""
    rows, columns = (spans(size, dilated) for size in maps.shape[1:3])
    windows = torch.stack([maps[:, down, across] for down in rows for across in columns], 1)
    return windows.permute(0, 1, 4, 2, 3)


def condense(windows: Tensor, dilated: bool) -> Tensor:
    """Return maps ``(B, H, W, C)`` of windows ``(B, 4, C, h, w)``, the mean of the windows at every place.

    A window's weight is 1 where it is alone, 1/2 where two overlap, 1/4 in the centre. Source: the weighted condense of
    arXiv 2401.10843.
    """
    top_left, top_right, bottom_left, bottom_right = windows.permute(0, 1, 3, 4, 2).unbind(1)
    top, bottom = _join(top_left, top_right, 2, dilated), _join(bottom_left, bottom_right, 2, dilated)
    return _join(top, bottom, 1, dilated)


def _join(first: Tensor, second: Tensor, axis: int, dilated: bool) -> Tensor:
    if not dilated:
        return torch.cat([first, second], axis)
    alone = first.shape[axis] // 3
    parts = [alone, 2 * alone]
    before, overlap = torch.split(first, parts, axis)
    overlapping, after = torch.split(second, parts[::-1], axis)
    return torch.cat([before, (overlap + overlapping) / 2, after], axis)


def coverage(height: int, width: int, dilated: bool) -> Tensor:
    """Return how many windows see each place of maps ``(B, height, width, C)``, ``(height, width, 1)``."""
    seen = torch.zeros(height, width, 1)
    for down in spans(height, dilated):
        for across in spans(width, dilated):
            seen[down, across] += 1
    return seen


def pad(maps: Tensor, multiple: int) -> Tensor:
    """Return maps ``(B, H, W, C)`` with zeros below and to the right, so that sides are a multiple of ``multiple``."""
    below, right = (-size % multiple for size in maps.shape[1:3])
    return functional.pad(maps, (0, 0, 0, right, 0, below)) if below or right else maps


def neighbours(maps: Tensor) -> Tensor:
    """Return each 2x2 of maps ``(B, H, W, C)`` as one place, ``(B, H / 2, W / 2, 4 C)``."""
    batch, height, width, channels = maps.shape
    by_two = maps.view(batch, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
    return by_two.reshape(batch, height // 2, width // 2, 4 * channels)
