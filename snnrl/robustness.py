"""Disturbances of a network at work: spikes that are lost, bits of weights that flip, weights of few bits.

What is drawn is drawn on the CPU, so that a seed means the same on every device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from snnrl.neurons import SpikingNeuron

BITS = 8
"""Of the weights whose bits flip."""


@contextmanager
def dropped(network: nn.Module, probability: float, generator: torch.Generator) -> Iterator[None]:
    """Leave out every hidden spike with a probability, in the forwards inside the block.

    Of an ordinary network every output of its activation slots. Unlike dropout this scales nothing up.
    """

    def drop(_: nn.Module, __: object, sent: Tensor) -> Tensor:
        kept = torch.rand(sent.shape, generator=generator) >= probability
        return sent * kept.to(sent)

    hooks = [
        module.register_forward_hook(drop)
        for name, module in network.named_modules()
        if isinstance(module, SpikingNeuron) or name.endswith(".act")
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def flipped(network: nn.Module, probability: float, generator: torch.Generator) -> Iterator[None]:
    """Hold the weights as int8 inside the block, each of whose bits has flipped with a probability."""

    def flip(weight: Tensor) -> Tensor:
        integers, scale = quantize(weight, BITS)
        return flip_bits(integers, probability, generator) * scale

    with _weights(network, flip):
        yield


@contextmanager
def rounded(network: nn.Module, bits: int) -> Iterator[None]:
    """Round the weights to so many ``bits``, 2 to 8, inside the block."""

    def round_off(weight: Tensor) -> Tensor:
        integers, scale = quantize(weight, bits)
        return integers * scale

    with _weights(network, round_off):
        yield


def quantize(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return int8 q and scales s of a weight ``(outputs, ...)``, which is about s q: symmetric, one s for each output.

    s = max |w| / (2^(bits - 1) - 1), shape ``(outputs, 1, ...)``; q = round(w / s); 2 to 8 ``bits``.
    """
    largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
    scale = largest / (2 ** (bits - 1) - 1)
    divisor = scale.where(scale > 0, 1.0)  # an output whose weights are all zero stays so
    return (weight / divisor).round().to(torch.int8), scale


def flip_bits(integers: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return int8 of the same shape, each bit of two's complement flipped with a probability."""
    mask = torch.zeros(integers.shape, dtype=torch.uint8)
    for bit in range(BITS):
        mask |= (torch.rand(integers.shape, generator=generator) < probability).to(torch.uint8) << bit
    return integers ^ mask.view(torch.int8).to(integers.device)


@contextmanager
def _weights(network: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put other weights into linear and convolutional layers inside the block; biases stay, and what neurons have."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
    kept = [layer.weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight.copy_(change(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)
