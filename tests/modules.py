"""Networks to convert or to export, and what they read."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from snnrl.networks import calibrating, fill_slots


class Net(nn.Module):
    """A module whose forward is given as a function of it and its input."""

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Any) -> Any:
        return self._forward(self, x)


def layers() -> dict[str, nn.Module]:
    """Return three linear layers 4 -> 12 -> 12 -> 3."""
    return {"fc1": nn.Linear(4, 12), "fc2": nn.Linear(12, 12), "head": nn.Linear(12, 3)}


def vectors(dtype: torch.dtype | None = None) -> Tensor:
    """Return a batch of observations for ``layers``."""
    return torch.randn(96, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)


def settle(network: nn.Module, images: Tensor, neuron: str) -> nn.Module:
    """Return the network, spiking, its batch-norm with gains of both signs and settled on images."""
    torch.manual_seed(0)
    fill_slots(network, neuron, 1, encoder=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = 1.0
    with torch.no_grad(), calibrating(network, 80.0):
        for _ in range(3):
            network.train()(images)
    return network.eval()


def settled(network: nn.Module, shape: tuple[int, ...], neuron: str) -> tuple[nn.Module, Tensor]:
    """Return the network, settled, and the images that it settled on."""
    torch.manual_seed(0)
    images = torch.randn(32, *shape)
    return settle(network, images, neuron), images
