"""ResNet20 whose shortcuts carry spikes (arXiv 2110.05929, App. A.2.1), or currents (2212.10170)."""

from collections import OrderedDict
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


def hoyer_resnet20(
    observation_shape: tuple[int, int, int],
    features: int = 512,
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Sequential:
    """Return ResNet20 with one shortcut for each convolution, on currents (arXiv 2212.10170): ``(B, features)``.

    Three convolutions and a maximum over 3x3, sixteen blocks, the mean of each map, neurons, and ``fc1`` unless
    ``features`` is 0. ``width``: the share of the paper's channels.
    """
    channels = share_of(STEM[0], width)
    parts = plain_layers(observation_shape[0], (STEM[0], STEM[0]), batch_norm=batch_norm, dropout=dropout, width=width)
    weights, norm = convolution(channels, channels, 3, batch_norm=batch_norm)
    parts["conv3"] = block(weights, norm, activation=None, pool=nn.MaxPool2d(3, 2, 1))
    for number, planned in enumerate((planned for planned in BLOCKS for _ in range(2)), 1):
        before, channels = channels, share_of(planned, width)
        parts[f"block{number}"] = CurrentBlock(before, channels, batch_norm=batch_norm, dropout=dropout)
    parts["mean"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["maps"] = block(nn.Identity())
    return with_features(parts, observation_shape, features)


class CurrentBlock(nn.Module):
    """Neurons and a convolution, whose current is added to that in front of the neurons: x + conv(spikes of x).

    Where there are more channels than before, the convolution has stride 2, and the shortcut is the maximum over 2x2,
    batch-norm, neurons and a convolution of 1x1.
    """

    def __init__(self, channels: int, width: int, *, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        stride = 1 if channels == width else 2
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv = block(*convolution(channels, width, 3, stride, batch_norm=batch_norm), activation=None)
        self.shortcut: nn.Module = CurrentShortcut()
        if stride > 1:
            parts: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.MaxPool2d(2, ceil_mode=True))
            if batch_norm:
                parts["norm"] = nn.BatchNorm2d(channels)
            parts |= OrderedDict(act=nn.ReLU(), weights=nn.Conv2d(channels, width, 1, bias=not batch_norm))
            self.shortcut = nn.Sequential(parts)

    def forward(self, currents: Tensor) -> Tensor:
        """Return currents ``(B, width, H / stride, W / stride)``."""
        # the neurons first: operations are counted in the order of the forward, and they belong to the layer before
        convolved: Tensor = self.conv(self.dropout(self.act(currents)))
        residual: Tensor = self.shortcut(currents)
        return convolved + residual


class CurrentShortcut(nn.Identity):
    """The input itself, a current: an addition for each element."""


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


@counts(IdentityShortcut, CurrentShortcut)
def count_shortcut(count: Count, name: str, shortcut: nn.Module, values: Tensor, output: Tensor) -> None:
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
