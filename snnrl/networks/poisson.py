"""Rate coding: at every step an input value sends a spike of its sign, the more likely the larger it is."""

from typing import Any

import torch
from torch import Tensor, nn

from snnrl.networks.spiking import SpikingNetwork, neurons_of


@torch.no_grad()
def encode_by_rate(network: SpikingNetwork, largest: float, seed: int) -> None:
    """Let ``network`` see spikes of its input ``(B, ...)`` from now on, drawn anew at each of the T steps, in place.

    A value x sends a spike of its sign with probability min(1, |x| / largest). A spike stands for ``largest``, which is
    multiplied into the first layer's weights, so that its mean current is that of the value itself.
    """
    first = next(layer for layer in network.body.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    first.weight.mul_(largest)
    next(iter(neurons_of(network).values())).encoder = False
    generator = torch.Generator(first.weight.device).manual_seed(seed)

    def encode(_: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
        values: Tensor = inputs[0]
        drawn = torch.rand((network.steps, *values.shape), generator=generator, device=values.device)
        return ((drawn < values.abs() / largest) * values.sign()).flatten(0, 1)

    network.body.register_forward_pre_hook(encode)
