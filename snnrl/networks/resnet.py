"""ResNet20 for spikes: three plain layers, then basic blocks whose sums are currents (arXiv 2110.05929, App. A.2.1)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from snnrl.energy import LayerOperations, counts
from snnrl.energy.operations import Count, count_events
from snnrl.networks.layers import block, share_of, with_features
from snnrl.networks.vgg import POOL, convolution, is_large, plain_layers

STEM = (64, 64, 64, POOL)
LARGE_STEM = (64, POOL, 64, POOL, 64, POOL)
BLOCKS = (64, 64, 128, 128, 256, 256, 512, 512)


def resnet20(
    observation_shape: tuple[int, int, int],
    features: int = 512,
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Sequential:
    """Return a stem of three convolutions, eight blocks and ``fc1``: images to ``(B, features)``, or maps with 0.

    ``width``: the share of the paper's channels.
    """
    plan = LARGE_STEM if is_large(observation_shape) else STEM
    parts = plain_layers(observation_shape[0], plan, batch_norm=batch_norm, dropout=dropout, width=width)
    for number, (before, channels) in enumerate(pairwise((STEM[0], *BLOCKS)), 1):
        narrow, wide = share_of(before, width), share_of(channels, width)
        stride = 1 if before == channels else 2
        parts[f"block{number}"] = BasicBlock(narrow, wide, stride, batch_norm=batch_norm, dropout=dropout)
    return with_features(parts, observation_shape, features)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, whose currents are added in front of the second activation.

    With a stride the maps are smaller and the shortcut is a convolution of 1x1.
    """

    def __init__(self, channels: int, width: int, stride: int = 1, *, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.shortcut: nn.Module = IdentityShortcut()
        if stride > 1:
            self.shortcut = block(*convolution(channels, width, 1, stride, batch_norm=batch_norm), activation=None)
        self.conv1 = block(*convolution(channels, width, 3, stride, batch_norm=batch_norm))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = block(*convolution(width, width, 3, batch_norm=batch_norm), activation=None)
        self.act = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return maps ``(B, width, H / stride, W / stride)``."""
        # the shortcut first: operations are counted in the order of the forward, and the neurons belong to conv2
        shortcut: Tensor = self.shortcut(inputs)
        output: Tensor = self.act(self.conv2(self.dropout(self.conv1(inputs))) + shortcut)
        return output


class IdentityShortcut(nn.Module):
    """The input as a current: times 1 in the ordinary network, times what a spike stands for in the spiking one.

    Conversion sets that factor, the only weight; it is not trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the current, of the shape of the input."""
        return inputs * self.weight


@counts(IdentityShortcut)
def count_shortcut(count: Count, name: str, shortcut: IdentityShortcut, values: Tensor, output: Tensor) -> None:
    """An addition for each element and pass, in the ordinary network as in the spiking one."""
    spiking, events = count_events(count, values)
    count.layers.append(
        LayerOperations(
            name,
            count.decisions,
            passes=len(values) // count.decisions,
            macs=0,
            spiking=spiking,
            events=int(events.sum()),
            active=0,
            inputs=values[0].numel(),
            outputs=0,
            parameters=0,
            biases=output[0].numel(),
        )
    )
