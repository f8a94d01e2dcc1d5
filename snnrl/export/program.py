"""A chain laid out for a machine that adds the weights of active inputs, and what such a machine does."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from snnrl.errors import UserError
from snnrl.export.chain import Chain, Floats, Layer, Observation, currents

LARGEST_INPUT = 32767
"""Of a vector's entries as whole numbers."""


@dataclass(frozen=True)
class EventLayer:
    """Weights by input, so that the weights of one active input lie side by side.

    A linear layer is a convolution whose kernel is as large as its maps.
    """

    name: str
    weight: NDArray[Any]
    """``(height, width, in, out)``."""
    shape_in: tuple[int, int, int]
    """Maps (C, H, W) before they are averaged."""
    shape_out: tuple[int, int, int]
    """Before maxima are taken."""
    stride: int
    padding: int
    averaged: int
    largest: int
    start: NDArray[Any] | None
    """``(H, W, out)``: what sums begin with, None where that is zero."""
    level: NDArray[Any] | None
    """``(out,)``; None of the layer that is read out."""
    flipped: NDArray[np.bool_]
    """``(out,)``: which neurons fire at or below their level."""
    unit: Floats
    """``(out,)``: the threshold of the neurons in the units of the sums."""

    @property
    def shape_spikes(self) -> tuple[int, int, int]:
        """Maps (C, H, W) of spikes."""
        channels, *sides = self.shape_out
        height, width = (side // self.largest for side in sides)
        return channels, height, width


@dataclass(frozen=True)
class Program:
    """What the C code does: sums in float32, or in whole numbers of 32 bits throughout."""

    observation: Observation
    layers: tuple[EventLayer, ...]
    bias: NDArray[Any]
    """``(actions,)``, in the units of the sums."""
    reference: NDArray[np.uint8] | None = None
    """What is subtracted from an observation of bytes: where they are the same there is nothing to be added.

    Its own share is what the first layer's sums begin with.
    """
    whole: bool = False
    """Whether weights and sums are whole numbers."""
    input_scale: NDArray[np.float32] | None = None
    """Powers of two that an observation of floats is multiplied by before it is rounded to whole numbers."""
    scale: float = 1.0
    """Q-value = scale * sum."""


class Trace(NamedTuple):
    """What a program does with observations."""

    spikes: list[NDArray[np.bool_]]
    """Of each layer, ``(B, C, H, W)``."""
    q_values: NDArray[np.float32]
    """``(B, K)``."""
    actions: NDArray[np.int64]
    closest: Floats
    """``(B,)``: how near a sum came to its level, in units of the threshold; of floats, their order decides ties."""


def lower(chain: Chain, examples: NDArray[Any]) -> Program:
    """Lay out a spiking chain in float32; ``examples`` ``(B, ...)`` of observations tell the background.

    Raises:
        UserError: the chain is an ordinary network's.
    """
    if not chain.spiking:
        raise UserError("an ordinary network has no spikes that could be added up: give --T 1, or export it --to onnx")
    seen = chain.observation
    reference = np.median(examples, axis=0).astype(np.uint8) if seen.of_bytes and seen.view is None else None
    layers = []
    for layer in chain.layers:
        weight, start = layer.weight, None
        if layer is chain.layers[0]:
            weight, start = _on_observations(layer, seen, reference)
        layers.append(_laid_out(layer, weight / layer.averaged**2, start))
    bias = chain.layers[-1].bias.astype(np.float32)
    return Program(seen, tuple(layers), bias=bias, reference=reference)


def _on_observations(
    layer: Layer, seen: Observation, reference: NDArray[np.uint8] | None
) -> tuple[Floats, Floats | None]:
    """Return weights for an observation's own numbers, and currents ``(H, W, out)`` of the one that is subtracted."""
    by_input = seen.gain if layer.weight.ndim == 4 else np.broadcast_to(seen.gain, seen.planes).reshape(-1)
    weight = layer.weight * by_input
    if seen.view is not None:
        return weight, None
    nothing = np.zeros(seen.shape, np.uint8) if reference is None else reference
    start = currents(layer, seen.real(nothing[None])).numpy().reshape(_maps(layer.shape_out))
    return weight, start.transpose(1, 2, 0) if start.any() else None


def _laid_out(layer: Layer, weight: Floats, start: Floats | None) -> EventLayer:
    shape_in = _maps(layer.shape_in)
    sides = [side // layer.averaged for side in shape_in[1:]]
    by_map = weight if weight.ndim == 4 else weight.reshape(len(weight), shape_in[0], *sides)
    out, firing = len(weight), layer.firing
    return EventLayer(
        layer.name,
        np.ascontiguousarray(by_map.transpose(2, 3, 1, 0)).astype(np.float32),
        shape_in,
        _maps(layer.shape_out),
        layer.stride,
        layer.padding,
        layer.averaged,
        layer.largest,
        None if start is None else np.ascontiguousarray(start).astype(np.float32),
        None if firing is None else firing.level.astype(np.float32),
        np.zeros(out, bool) if firing is None else firing.flipped,
        np.ones(out) if firing is None else firing.unit,
    )


def _maps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return a vector's shape as that of maps of one pixel."""
    channels, height, width = (*shape, 1, 1)[:3]
    return channels, height, width


def inputs_of(program: Program, observations: NDArray[Any]) -> Tensor:
    """Return what the first layer adds up of observations ``(B, ...)``, in float64."""
    seen = program.observation
    if program.reference is not None:
        left = torch.from_numpy(observations.astype(np.int16) - program.reference.astype(np.int16)).double()
    elif seen.view is not None:
        left = seen.real(observations)
    elif program.input_scale is not None:
        numbers = observations.astype(np.float32) * program.input_scale
        numbers = np.clip(np.nan_to_num(numbers, nan=0), -LARGEST_INPUT, LARGEST_INPUT)
        left = torch.from_numpy(np.floor(numbers + np.float32(0.5))).double()
    else:
        left = torch.from_numpy(observations).double()
    return left.reshape(len(left), *program.layers[0].shape_in)


def sums_of(layer: EventLayer, inputs: Tensor) -> Tensor:
    """Return the sums ``(B, out, H, W)`` of a layer's inputs ``(B, C, H, W)``, in float64: exact for whole numbers."""
    if layer.averaged > 1:
        inputs = nn.functional.avg_pool2d(inputs, layer.averaged, divisor_override=1)
    weight = torch.from_numpy(layer.weight).double().permute(3, 2, 0, 1)
    sums = nn.functional.conv2d(inputs, weight, stride=layer.stride, padding=layer.padding)
    if layer.start is not None:
        sums += torch.from_numpy(layer.start).permute(2, 0, 1)
    return nn.functional.max_pool2d(sums, layer.largest)


def spikes_of(layer: EventLayer, sums: Tensor) -> Tensor:
    """Return which sums ``(B, out, H, W)`` reach their level."""
    assert layer.level is not None
    level = torch.from_numpy(layer.level).double().view(-1, 1, 1)
    return torch.where(torch.from_numpy(layer.flipped).view(-1, 1, 1), sums <= level, sums >= level)


def run(program: Program, observations: NDArray[Any]) -> Trace:
    """Return what a program does with observations ``(B, ...)``: of whole numbers exactly what its C code does."""
    values = inputs_of(program, observations)
    spikes = []
    closest = np.full(len(observations), np.inf)
    for layer in program.layers[:-1]:
        assert layer.level is not None
        sums = sums_of(layer, values)
        over = (sums.numpy() - layer.level[:, None, None]) / layer.unit[:, None, None]
        closest = np.minimum(closest, np.abs(over).min(axis=(1, 2, 3)))
        values = spikes_of(layer, sums).double()
        spikes.append(values.numpy() > 0)
    q_sums = sums_of(program.layers[-1], values).flatten(1).numpy() + program.bias
    return Trace(spikes, q_sums.astype(np.float32) * np.float32(program.scale), q_sums.argmax(axis=1), closest)
