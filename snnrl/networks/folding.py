"""A spiking network at one timestep as weights and comparisons: batch-norm, bias and threshold in one.

Where no neurons follow a batch-norm at once, as in blocks with shortcuts, it stays.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snnrl.errors import UserError
from snnrl.networks.layers import HeldDropout
from snnrl.neurons import SpikingNeuron


class Comparison(nn.Module):
    """Spikes where a current reaches the level of its map: 1[y >= level], or 1[y <= level] where ``flipped``.

    ``level`` and ``flipped``: 0-dim, of each map ``(C, 1, 1)``, or of each neuron ``(N,)``.
    """

    def __init__(self, level: Tensor, flipped: Tensor) -> None:
        super().__init__()
        self.level: Tensor
        self.sign: Tensor | None
        self.register_buffer("sign", 1 - 2 * flipped.to(level.dtype) if flipped.any() else None)
        self.register_buffer("level", level if self.sign is None else level * self.sign)

    def forward(self, current: Tensor) -> Tensor:
        """Return spikes of the shape of ``current``."""
        if self.sign is not None:
            current = current * self.sign
        return torch.ge(current, self.level, out=torch.empty_like(current))


@torch.no_grad()
def folded(network: nn.Module) -> nn.Module:
    """Return a copy for inference at one timestep whose neurons compare a layer's plain sums with one number per map.

    A neuron behind weights y = w x, bias b and batch-norm (mean, std, gain, shift) fires where
    gain * (y + b - mean) / std + shift >= level, which is y >= mean - b + std * (level - shift) / gain; a negative gain
    turns the comparison round. Where no pooling lies between, the weights of such maps are turned round instead.
    Source: arXiv 2212.10170; spikes differ only in ties of rounding.

    Raises:
        UserError: the network decides in several timesteps.
    """
    network = copy.deepcopy(network).eval()
    for name, neuron in list(network.named_modules()):
        if isinstance(neuron, SpikingNeuron):
            if neuron.steps > 1:
                raise UserError(f"a network that decides in {neuron.steps} timesteps cannot be folded: lower T to 1")
            parent = network.get_submodule(name.rpartition(".")[0])
            comparison = _folded_block(parent, neuron) if isinstance(parent, nn.Sequential) else None
            network.set_submodule(name, comparison or Comparison(_by_map(neuron.level), torch.tensor(False)))
        elif isinstance(neuron, HeldDropout):
            network.set_submodule(name, nn.Identity())
    return network


def _by_map(level: Tensor) -> Tensor:
    return level.view(-1, 1, 1) if level.dim() else level


def _folded_block(block: nn.Sequential, neuron: SpikingNeuron) -> Comparison | None:
    """Take bias and batch-norm out of a block and return the comparison in their place; None if there is no such block.

    The block must be ``weights -> [pool] -> [norm] -> act``.
    """
    parts = dict(block.named_children())
    weights, norm = parts.get("weights"), parts.get("norm")
    if not isinstance(weights, nn.Linear | nn.Conv2d) or list(parts) != [
        part for part in ("weights", "pool", "norm", "act") if part in parts
    ]:
        return None
    level = neuron.level.expand(len(weights.weight)).double()
    gain = torch.ones_like(level)
    if isinstance(norm, _BatchNorm):
        assert norm.running_var is not None
        assert norm.running_mean is not None
        std = (norm.running_var.double() + norm.eps).sqrt()
        gain = norm.weight.double()
        # a gain of zero leaves the shift alone: the neuron always fires, or never
        constant = gain == 0
        level = norm.running_mean + std * (level - norm.bias) / torch.where(constant, 1.0, gain)
        level = torch.where(constant, torch.where(norm.bias >= neuron.level, -torch.inf, torch.inf), level)
        block.set_submodule("norm", nn.Identity())
    if isinstance(weights.bias, Tensor):
        level = level - weights.bias
        weights.bias = None
    flipped = gain < 0
    if "pool" not in parts:
        turn = torch.where(flipped, -1.0, 1.0).to(weights.weight.dtype)
        weights.weight.mul_(turn.view(-1, *[1] * (weights.weight.dim() - 1)))
        level, flipped = torch.where(flipped, -level, level), torch.zeros_like(flipped)
    shape = (-1, 1, 1) if isinstance(weights, nn.Conv2d) else (-1,)
    return Comparison(level.to(weights.weight.dtype).view(shape), flipped.view(shape))
