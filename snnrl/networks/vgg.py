"""VGG6 and VGG16: average pooling of spikes (arXiv 2110.05929, App. A.2.1), or maxima of currents (2212.10170)."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import nn

from snnrl.networks.layers import block, share_of, with_features

POOL = "P"
"""Pooling over 2x2."""

VGG6 = (64, POOL, 128, 128, POOL)
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512)

LARGE = 64
"""Pixels a side above which an image is pooled more often, as the ImageNet networks do with 224."""


def vgg6(observation_shape: tuple[int, int, int], features: int = 512, **options: Any) -> nn.Sequential:
    """Return three convolutions and ``fc1``: images ``(B, C, H, W)`` to ``(B, features)``, or flattened maps with 0.

    ``options`` are those of :func:`plain_layers`.
    """
    return _vgg(VGG6, observation_shape, features, options)


def vgg16(observation_shape: tuple[int, int, int], features: int = 512, **options: Any) -> nn.Sequential:
    """Return thirteen convolutions and ``fc1``: images to ``(B, features)``, or to the flattened maps with 0.

    ``options`` are those of :func:`plain_layers`.
    """
    return _vgg(VGG16, observation_shape, features, options)


def _vgg(
    plan: Sequence[int | str], observation_shape: tuple[int, int, int], features: int, options: Mapping[str, Any]
) -> nn.Sequential:
    if is_large(observation_shape):
        plan = (*plan, POOL)
    return with_features(plain_layers(observation_shape[0], plan, **options), observation_shape, features)


def is_large(observation_shape: tuple[int, int, int]) -> bool:
    """Say whether images of this shape are pooled more often."""
    return max(observation_shape[1:]) > LARGE


def plain_layers(
    channels: int,
    plan: Sequence[int | str],
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
    pool_first: bool = False,
) -> OrderedDict[str, nn.Module]:
    """Return the convolutions of these channels, 3x3, with average pooling where the plan has ``POOL``.

    With ``pool_first`` the maxima of the currents are taken there, before batch-norm and activation, so that spikes are
    never averaged (arXiv 2212.10170). Dropout follows every activation that no average follows. ``width``: the share of
    the plan's channels.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    number = pools = 0
    for place, planned in enumerate(plan):
        if isinstance(planned, int):
            number += 1
            before, channels = channels, share_of(planned, width)
            pooled = len(list(takewhile(lambda part: part == POOL, plan[place + 1 :])))
            pool = nn.MaxPool2d(2**pooled) if pool_first and pooled else None
            parts[f"conv{number}"] = block(*convolution(before, channels, 3, batch_norm=batch_norm), pool=pool)
            if dropout and (pool_first or not pooled):
                parts[f"dropout{number}"] = nn.Dropout(dropout)
        elif not pool_first:
            pools += 1
            parts[f"pool{pools}"] = nn.AvgPool2d(2)
    return parts


def convolution(
    channels: int, width: int, kernel: int, stride: int = 1, *, batch_norm: bool
) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """Return a convolution that keeps the size, divided by ``stride``, and its batch-norm, which then is its bias."""
    weights = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=not batch_norm)
    return weights, nn.BatchNorm2d(width) if batch_norm else None
