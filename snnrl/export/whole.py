"""Whole numbers in place of floats: weights of 8 or 16 bits, sums of 32, spikes nearly the same.

Of each output w = s q, with q a whole number, so that sum q x >= ceil(level / s) says of the rounded weights what
sum w x >= level says of w.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnrl.errors import UserError
from snnrl.export.chain import Floats
from snnrl.export.program import LARGEST_INPUT, EventLayer, Program, inputs_of, spikes_of, sums_of

Bits = Literal[8, 16]

SMALL = 0.1
"""Layers with a smaller share of all weights keep 16 bits: they cost little, and their errors pass through the rest."""
LARGEST_SUM = 2**31 - 1
HALF = LARGEST_SUM / 2
"""Of it, which the weights' share of a sum keeps below; what the sum begins with keeps below the other half."""
DAMPING = 0.01
"""Of the mean second moment, added to each; Frantar et al. 2023, arXiv 2210.17323, Sec. 3.3."""
COLUMNS = 128
"""Rounded before the others learn of it; the same source."""
MOST_PATCHES = 20_000
"""Of inputs, whose second moments are taken."""
NEAR = 32
"""How far, in units of the sums, a level may be moved."""


def rounded(program: Program, bits: Bits, examples: NDArray[Any]) -> Program:
    """Return a program of whole numbers; ``examples`` ``(B, ...)`` of observations tell what inputs are like.

    Weights of 8 bits are rounded one after the other, each making up for the errors before it on the examples, and
    their levels are put where the fewest spikes of the examples change.

    Raises:
        UserError: a layer has so many inputs that its sums need more than 32 bits.
    """
    scale = None if program.observation.of_bytes else _input_scale(examples)
    result = replace(program, whole=True, input_scale=scale)
    total = sum(layer.weight.size for layer in program.layers)
    values, whole_values = inputs_of(program, examples), inputs_of(result, examples)
    layers: list[EventLayer] = []
    unit = 1.0
    for layer in program.layers:
        if layer is program.layers[0] and scale is not None:
            factor = scale if scale.ndim == 3 else scale.reshape(layer.shape_in)
            layer = replace(layer, weight=layer.weight / factor.transpose(1, 2, 0)[..., None])
        few = bits == 8 and layer.weight.size >= SMALL * total
        largest_input = 1.0 if layers else (255.0 if scale is None else float(LARGEST_INPUT))
        smallest = 0.0 if layer.level is not None else float(np.abs(program.bias).max()) * 4 / LARGEST_SUM
        found, units = _whole_layer(layer, 8 if few else 16, largest_input * layer.averaged**2, whole_values, smallest)
        if found.level is None:
            unit = float(units[0])
        else:
            spikes = spikes_of(layer, sums_of(layer, values if scale is None or layers else whole_values))
            sums = sums_of(found, whole_values)
            if few:
                found = replace(found, level=found.level + _shift(found, sums, spikes))
            values, whole_values = spikes.double(), spikes_of(found, sums).double()
        layers.append(found)
    return replace(result, layers=tuple(layers), scale=unit, bias=np.rint(program.bias / unit).astype(np.int32))


def _input_scale(examples: NDArray[Any]) -> NDArray[np.float32]:
    """Return powers of two by entry, or by map, that leave room for numbers four times as large as any example's."""
    maps = examples.ndim == 4
    most = np.abs(examples).max(axis=(0, 2, 3) if maps else 0, keepdims=maps)
    most = np.maximum(most[0] if maps else most, 1e-6)
    scale: NDArray[np.float32] = np.exp2(np.floor(np.log2(LARGEST_INPUT / (4 * most)))).astype(np.float32)
    return scale


def _whole_layer(
    layer: EventLayer, bits: Bits, largest_input: float, inputs: Tensor, smallest: float
) -> tuple[EventLayer, Floats]:
    """Return a layer with weights of so many bits, and what 1 of each output's sum is worth, ``smallest`` at least."""
    weight = layer.weight.transpose(3, 2, 0, 1).astype(np.float64)
    by_output = weight.reshape(len(weight), -1)
    most = 2 ** (bits - 1) - 1
    begins = np.zeros(len(weight)) if layer.start is None else np.abs(layer.start).max(axis=(0, 1))
    units = _units(np.abs(by_output), most, largest_input, begins)
    if layer.level is None:
        units[:] = max(units.max(), smallest)
    by_output = by_output / units[:, None]
    found = np.rint(by_output) if bits == 16 else _compensating(by_output, most, _second_moments(layer, inputs))
    if (np.abs(found).sum(axis=1) * largest_input + np.rint(begins / units)).max() > LARGEST_SUM:
        raise UserError(f"sums of {layer.name} need more than 32 bits: export it with --weights float32")
    kernel = found.reshape(weight.shape).transpose(2, 3, 1, 0)
    start = level = None
    if layer.start is not None:
        start = np.rint(layer.start / units).astype(np.int32)
    if layer.level is not None:
        level = layer.level / units
        level = (
            np.where(layer.flipped, np.floor(level), np.ceil(level)).clip(-LARGEST_SUM, LARGEST_SUM).astype(np.int32)
        )
    kind: Any = np.int8 if bits == 8 else np.int16
    weight = np.ascontiguousarray(kernel).astype(kind)
    return replace(layer, weight=weight, start=start, level=level, unit=layer.unit / units), units


def _units(sizes: Floats, most: int, largest_input: float, begins: Floats) -> Floats:
    """Return units in which no weight exceeds ``most``, and neither an output's weights nor its start their half."""
    largest = HALF / largest_input
    # rounding adds less than 1 to each term, but for those that make up for others
    room = max(largest - sizes.shape[1], largest / 2)
    units: Floats = np.maximum.reduce([sizes.max(axis=1) / most, sizes.sum(axis=1) / room, begins / HALF])
    return np.where(units > 0, units, 1.0)


def _second_moments(layer: EventLayer, inputs: Tensor) -> Floats:
    """Return sum x x^T over the patches ``(in * height * width,)`` that a layer's kernel sees of inputs."""
    if layer.averaged > 1:
        inputs = nn.functional.avg_pool2d(inputs, layer.averaged, divisor_override=1)
    height, width, _, _ = layer.weight.shape
    per_input = layer.shape_out[1] * layer.shape_out[2]
    few = inputs[:: max(1, len(inputs) * per_input // MOST_PATCHES)]
    patches = nn.functional.unfold(few, (height, width), stride=layer.stride, padding=layer.padding)
    flat = patches.transpose(1, 2).flatten(0, 1)
    moments: Floats = (flat.T @ flat).numpy()
    return moments


def _compensating(weight: Floats, most: int, moments: Floats) -> Floats:
    """Return whole numbers for ``weight`` ``(out, in)``, the weights still to be rounded making up for each error.

    Source: GPTQ, Frantar et al. 2023, arXiv 2210.17323, Algorithm 1; the most active inputs come first.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    left = weight[:, order]
    damped = moments[np.ix_(order, order)]
    damped[np.diag_indices_from(damped)] += DAMPING * np.trace(damped) / len(damped) + 1e-12
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    whole = np.empty_like(left)
    for first in range(0, left.shape[1], COLUMNS):
        block = slice(first, min(first + COLUMNS, left.shape[1]))
        errors = np.empty_like(left[:, block])
        for column in range(block.start, block.stop):
            whole[:, column] = np.clip(np.rint(left[:, column]), -most, most)
            error = (left[:, column] - whole[:, column]) / factor[column, column]
            left[:, column : block.stop] -= np.outer(error, factor[column, column : block.stop])
            errors[:, column - first] = error
        left[:, block.stop :] -= errors @ factor[block, block.stop :]
    result = np.empty_like(whole)
    result[:, order] = whole
    return result


def _shift(layer: EventLayer, sums: Tensor, spikes: Tensor) -> NDArray[np.int32]:
    """Return by how much each map's level should move for the fewest spikes ``(B, out, H, W)`` to change."""
    assert layer.level is not None
    level = torch.from_numpy(layer.level).double().view(-1, 1, 1)
    over = (sums - level).transpose(0, 1).flatten(1).numpy()
    fired = spikes.transpose(0, 1).flatten(1).numpy()
    moves = np.arange(-NEAR, NEAR + 1)
    shift = np.zeros(len(over), np.int32)
    for index, (distances, fires, flipped) in enumerate(zip(over, fired, layer.flipped, strict=True)):
        near = np.abs(distances) <= NEAR
        above, below = (np.sort(distances[near & part]) for part in (fires, ~fires))
        if flipped:
            lost, gained = len(above) - np.searchsorted(above, moves, "right"), np.searchsorted(below, moves, "right")
        else:
            lost, gained = np.searchsorted(above, moves, "left"), len(below) - np.searchsorted(below, moves, "left")
        best = moves[lost + gained == (lost + gained).min()]
        shift[index] = best[np.abs(best - np.median(best)).argmin()]
    return shift
