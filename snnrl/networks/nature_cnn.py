"""The convolutional network of Mnih et al. 2015 (Nature 518, Methods): 32x8/4, 64x4/2, 64x3/1, fc512."""

from torch import nn

from snnrl.networks.layers import conv_features

CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


def nature_cnn(
    observation_shape: tuple[int, int, int], features: int = 512, *, batch_norm: bool = False
) -> nn.Sequential:
    """Return the feature part of the Nature DQN, images ``(B, C, H, W)`` to ``(B, features)``."""
    return conv_features(observation_shape, CONVOLUTIONS, features, batch_norm=batch_norm)
