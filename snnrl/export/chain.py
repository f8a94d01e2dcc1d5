"""What is exported: the layers of a network at one timestep, or of an ordinary one, as a chain of arrays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from snnrl.errors import UserError
from snnrl.networks import Comparison, HeldDropout, View, folded, neurons_of
from snnrl.neurons import ExpandTime

Floats = NDArray[np.float64]

SMALLEST_UNIT = 1e-6
"""A threshold below which it is no measure of a layer's currents: that of ``binary`` neurons, which fire above zero."""


@dataclass(frozen=True)
class Observation:
    """What a network is given: an array of bytes or floats, which it takes for gain * number + offset."""

    shape: tuple[int, ...]
    """Maps (C, H, W), or (N,)."""
    of_bytes: bool
    gain: Floats
    """Of each channel, shaped to be multiplied with an observation."""
    offset: Floats
    view: View | None = None
    """Makes planes of 0 and 1 of the bytes; gain and offset are then 1 and 0."""

    @property
    def planes(self) -> tuple[int, ...]:
        """The shape that the first layer sees."""
        return self.shape if self.view is None else (self.view.planes, *self.shape[1:])

    def real(self, observations: NDArray[Any]) -> Tensor:
        """Return what the first layer sees of observations ``(B, ...)``, in float64."""
        given = torch.from_numpy(np.ascontiguousarray(observations))
        if self.view is not None:
            planes: Tensor = self.view(given)
            return planes.double()
        return given.double() * torch.from_numpy(self.gain) + torch.from_numpy(self.offset)


@dataclass(frozen=True)
class Firing:
    """Spikes where a current reaches its level, 1[y >= level], or 1[y <= level] where ``flipped``; each ``(out,)``."""

    level: Floats
    flipped: NDArray[np.bool_]
    unit: Floats
    """The threshold of the neurons, positive: how near to its level a current is, is measured in it."""


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer, and what is done to its currents."""

    name: str
    weight: Floats
    """``(out, in, height, width)`` of a convolution, ``(out, in)`` of a linear layer."""
    bias: Floats
    """``(out,)``; zero where a comparison follows, which holds it."""
    shape_in: tuple[int, ...]
    """Maps (C, H, W), or (N,), before they are averaged."""
    shape_out: tuple[int, ...]
    """Before maxima are taken."""
    stride: int = 1
    padding: int = 0
    averaged: int = 1
    """So many by so many inputs are averaged first."""
    largest: int = 1
    """Of so many by so many currents the largest goes on."""
    firing: Firing | None = None
    rectified: bool = False

    @property
    def shape_spikes(self) -> tuple[int, ...]:
        """What goes on: maps (C, H, W) after maxima are taken, or (N,)."""
        return (self.shape_out[0], *(side // self.largest for side in self.shape_out[1:]))


@dataclass(frozen=True)
class Chain:
    """A network: what it is given, and its layers, the last of which is read out."""

    observation: Observation
    layers: tuple[Layer, ...]

    @property
    def spiking(self) -> bool:
        """Whether all layers but the last are made of neurons."""
        return len(self.layers) > 1 and all(layer.firing is not None for layer in self.layers[:-1])


@torch.no_grad()
def chain_of(network: nn.Module, observation: Observation) -> Chain:
    """Return the chain of a network made of sequences of layers, biases and batch-norm in its comparisons.

    Raises:
        UserError: the network decides in several timesteps, or is no chain of layers that can be exported.
    """
    neurons = neurons_of(network)
    units = [neuron.level.double() for neuron in neurons.values()]
    plain = folded(network) if neurons else network
    layers: list[Layer] = []
    shape = before = observation.planes
    averaged = 1
    for name, module in _leaves(plain, ""):
        match module:
            case nn.Linear() | nn.Conv2d():
                layers.append(replace(_weighted(name, module, shape), shape_in=before, averaged=averaged))
                shape = before = layers[-1].shape_out
                averaged = 1
            case _BatchNorm() if layers:
                layers[-1] = _normalised(layers[-1], module)
            case Comparison() if layers:
                layers[-1] = _spiking(layers[-1], module, units.pop(0))
            case nn.ReLU() if layers:
                layers[-1] = replace(layers[-1], rectified=True)
            case nn.AvgPool2d() | nn.MaxPool2d() if len(shape) == 3:
                size = _pooled(name, module)
                shape = (shape[0], shape[1] // size, shape[2] // size)
                if isinstance(module, nn.AvgPool2d):
                    averaged *= size
                else:
                    layers[-1] = _pooled_by_maximum(layers[-1], size)
                    before = shape
            case nn.Flatten() | nn.Identity() | nn.Dropout() | HeldDropout() | ExpandTime():
                pass
            case _:
                raise UserError(
                    f"{name or 'the network'} ({type(module).__name__}) cannot be exported: a chain of linear layers, "
                    "convolutions, pooling and neurons or ReLUs can"
                )
    if not layers or layers[-1].firing is not None or layers[-1].rectified:
        raise UserError("the network ends in no linear layer that is read out: it cannot be exported")
    if len(neurons) not in (0, len(layers) - 1):
        raise UserError("the network has layers that do not spike between those that do: it cannot be exported")
    return Chain(observation, _told_apart(layers))


def _told_apart(layers: list[Layer]) -> tuple[Layer, ...]:
    """Number layers of the same name, such as those of an extractor and of the layers behind it: fc1, fc1_2."""
    found: dict[str, Layer] = {}
    for layer in layers:
        name, number = layer.name, 1
        while name in found:
            number += 1
            name = f"{layer.name}_{number}"
        found[name] = replace(layer, name=name)
    return tuple(found.values())


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        yield name, module
        return
    for part, child in module.named_children():
        yield from _leaves(child, f"{name}.{part}" if name else part)


def _weighted(name: str, module: nn.Linear | nn.Conv2d, shape: tuple[int, ...]) -> Layer:
    weight = module.weight.double().cpu().numpy()
    bias = np.zeros(len(weight)) if module.bias is None else module.bias.double().cpu().numpy()
    name = name.removesuffix(".weights").rpartition(".")[2]
    if isinstance(module, nn.Linear):
        return Layer(name, weight, bias, shape, (len(weight),))
    (stride, *other_strides), padding = set(module.stride), module.padding
    if other_strides or isinstance(padding, str) or len(set(padding)) > 1 or module.groups > 1:
        raise UserError(
            f"{name} cannot be exported: its stride or padding is not the same on all sides, or it has groups"
        )
    if set(module.dilation) != {1} or module.padding_mode != "zeros":
        raise UserError(f"{name} cannot be exported: it is dilated, or padded with something else than zeros")
    sides = (
        (side + 2 * padding[0] - kernel) // stride + 1 for side, kernel in zip(shape[1:], weight.shape[2:], strict=True)
    )
    return Layer(name, weight, bias, shape, (len(weight), *sides), stride, padding[0])


def _normalised(layer: Layer, norm: _BatchNorm) -> Layer:
    fuse: Any = fuse_conv_bn_weights if layer.weight.ndim == 4 else fuse_linear_bn_weights
    moments = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    parts = [value.double().cpu() if isinstance(value, Tensor) else value for value in moments]
    weight, bias = fuse(torch.from_numpy(layer.weight), torch.from_numpy(layer.bias), *parts)
    if layer.largest > 1:
        raise UserError(f"{layer.name} has pooling before batch-norm: it cannot be exported as an ordinary network")
    return replace(layer, weight=weight.detach().numpy(), bias=bias.detach().numpy())


def _spiking(layer: Layer, comparison: Comparison, unit: Tensor) -> Layer:
    sign = np.ones(len(layer.bias))
    if comparison.sign is not None:
        sign[:] = comparison.sign.double().cpu().numpy().reshape(-1)
    level = comparison.level.double().cpu().numpy().reshape(-1) * sign - layer.bias
    units = np.broadcast_to(unit.cpu().numpy().reshape(-1), sign.shape)
    firing = Firing(level, sign < 0, np.where(units > SMALLEST_UNIT, units, 1.0))
    return replace(layer, bias=np.zeros_like(layer.bias), firing=firing)


def _pooled_by_maximum(layer: Layer, size: int) -> Layer:
    if layer.firing is not None and layer.firing.flipped.any():
        raise UserError(f"{layer.name} cannot be exported: the maximum of its spikes is none of its currents")
    return replace(layer, largest=layer.largest * size)


def _pooled(name: str, pool: nn.AvgPool2d | nn.MaxPool2d) -> int:
    size, stride = ({*part} if isinstance(part, tuple) else {part} for part in (pool.kernel_size, pool.stride))
    if len(size) > 1 or size != stride or pool.padding not in (0, (0, 0)) or pool.ceil_mode:
        raise UserError(f"{name} cannot be exported: its windows overlap, are not square or are padded")
    return int(size.pop())


def currents(layer: Layer, inputs: Tensor) -> Tensor:
    """Return a layer's currents ``(B, out, ...)`` for inputs ``(B, ...)`` in float64, before maxima are taken."""
    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    if layer.averaged > 1:
        inputs = nn.functional.avg_pool2d(inputs, layer.averaged)
    if layer.weight.ndim == 2:
        return nn.functional.linear(inputs.flatten(1), weight, bias)
    return nn.functional.conv2d(inputs, weight, bias, layer.stride, layer.padding)
