"""VGG6 and VGG16 with average pooling and dropout in place of max-pooling (arXiv 2110.05929, App. A.2.1)."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from snnrl.networks.layers import block, with_features

POOL = "A"
"""Averages of 2x2."""

VGG6 = (64, POOL, 128, 128, POOL)
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)

LARGE = 64
"""Pixels a side above which an image is pooled more often, as the ImageNet networks do with 224."""


def vgg6(
    observation_shape: tuple[int, int, int], features: int = 512, *, batch_norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Return three convolutions and ``fc1``: images ``(B, C, H, W)`` to ``(B, features)``, or flattened maps with 0."""
    return _vgg(VGG6, observation_shape, features, batch_norm, dropout)


def vgg16(
    observation_shape: tuple[int, int, int], features: int = 512, *, batch_norm: bool = False, dropout: float = 0.0
) -> nn.Sequential:
    """Return thirteen convolutions and ``fc1``: images to ``(B, features)``, or to the flattened maps with 0."""
    return _vgg(VGG16, observation_shape, features, batch_norm, dropout)


def _vgg(
    plan: Sequence[int | str], observation_shape: tuple[int, int, int], features: int, batch_norm: bool, dropout: float
) -> nn.Sequential:
    if is_large(observation_shape):
        plan = (*plan, POOL)
    parts = plain_layers(observation_shape[0], plan, batch_norm=batch_norm, dropout=dropout)
    return with_features(parts, observation_shape, features)


def is_large(observation_shape: tuple[int, int, int]) -> bool:
    """Say whether images of this shape are pooled more often."""
    return max(observation_shape[1:]) > LARGE


def plain_layers(
    channels: int, plan: Sequence[int | str], *, batch_norm: bool, dropout: float
) -> OrderedDict[str, nn.Module]:
    """Return the convolutions of these widths, 3x3, with average pooling where the plan has ``POOL``.

    Dropout follows every activation that no pooling follows.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    number = pools = 0
    for width, following in pairwise((*plan, None)):
        if isinstance(width, int):
            number += 1
            parts[f"conv{number}"] = block(*convolution(channels, width, 3, batch_norm=batch_norm))
            if dropout and following != POOL:
                parts[f"dropout{number}"] = nn.Dropout(dropout)
            channels = width
        else:
            pools += 1
            parts[f"pool{pools}"] = nn.AvgPool2d(2)
    return parts


def convolution(
    channels: int, width: int, kernel: int, stride: int = 1, *, batch_norm: bool
) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """Return a convolution that keeps the size, divided by ``stride``, and its batch-norm, which then is its bias."""
    weights = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=not batch_norm)
    return weights, nn.BatchNorm2d(width) if batch_norm else None
