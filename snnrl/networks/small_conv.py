"""The small convolutional network for pixel CartPole: 16, 32 and 32 maps of 5x5, stride 2 (arXiv 2110.05929, App.)."""

from torch import nn

from snnrl.networks.layers import conv_features

CONVOLUTIONS = ((16, 5, 2), (32, 5, 2), (32, 5, 2))


def small_conv(
    observation_shape: tuple[int, int, int], features: int = 128, *, batch_norm: bool = False
) -> nn.Sequential:
    """Return the feature part, images ``(B, C, H, W)`` to ``(B, features)``; with ``features`` 0 the flattened maps."""
    return conv_features(observation_shape, CONVOLUTIONS, features, batch_norm=batch_norm)
