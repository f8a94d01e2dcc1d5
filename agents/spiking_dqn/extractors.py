"""Feature extractors whose activations are slots: in SB3's Cnn and MultiInput policies the extractor itself spikes."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from snnrl.errors import UserError, did_you_mean
from snnrl.networks import VIEWS, View, convolutional, fill_slots, output_width
from snnrl.neurons import ExpandTime

NO_OPTIONS: Mapping[str, Any] = {}


class SlottedExtractor(BaseFeaturesExtractor):
    """A feature extractor that can spike; any other extractor counts as dense."""

    def fill(self, neuron: str, steps: int) -> bool:
        """Let neurons fill the slots, in place; return whether the features then differ from step to step."""
        raise NotImplementedError


class SlottedCNN(SlottedExtractor):
    """Images ``(B, C, H, W)`` to features ``(B, features_dim)`` by a network of :data:`snnrl.networks.CONVOLUTIONAL`.

    ``background`` is subtracted from the images: where they are mostly grey, every small change of a filter would else
    move its output everywhere at once, and most of the first layer's ReLUs die (docs/deviations.md). With a ``view``
    (:data:`snnrl.networks.VIEWS`) the network sees planes of 0 and 1 instead. ``options``: others that it is made with.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int = 512,
        network: str = "nature",
        batch_norm: bool = False,
        background: float = 0.0,
        view: str | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
        normalized_image: bool = False,
    ) -> None:
        shape = observation_space.shape
        if len(shape) != 3:
            raise UserError(
                f"a Cnn policy needs images (channels, height, width), not observations of shape {shape}: give "
                "MlpPolicy, or network.kind mlp in a recipe"
            )
        planes: View | None = None
        if view is not None:
            if view not in VIEWS:
                raise UserError(f"unknown view {view!r}{did_you_mean(view, VIEWS)}")
            if observation_space.dtype != np.uint8:
                raise UserError("a view needs frames of bytes (uint8)")
            planes = VIEWS[view](*shape)
            shape = (planes.planes, *shape[1:])
        cnn = convolutional(network, shape, features_dim, batch_norm=batch_norm, **options)
        super().__init__(observation_space, output_width(cnn, shape))
        # the faster layout for these convolutions, on a CPU too
        self.background = background
        self.view = planes
        self.cnn = cnn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types

    def forward(self, observations: Tensor) -> Tensor:
        """Return features ``(B, features_dim)``, or ``(T * B, features_dim)`` once filled.

        With a view the observations are bytes.
        """
        if self.view is not None:
            images = self.view(observations)
        else:
            images = observations - self.background if self.background else observations
        features: Tensor = self.cnn(images.contiguous(memory_format=torch.channels_last))
        return features

    @property
    def first(self) -> nn.Conv2d:
        """The first convolution."""
        return next(module for module in self.cnn.modules() if isinstance(module, nn.Conv2d))

    def fill(self, neuron: str, steps: int) -> bool:
        """Let every activation spike, the fully connected layer's included."""
        fill_slots(self.cnn, neuron, steps, encoder=True)
        return True


def channels_last(images: Tensor) -> Tensor:
    """Return images ``(B, C, H, W)`` with the channels of a pixel side by side in memory."""
    laid_out = images.is_contiguous(memory_format=torch.channels_last)
    if laid_out or images.dtype != torch.uint8 or images.device.type != "cpu":
        return images.contiguous(memory_format=torch.channels_last)
    # bytes on a CPU: OpenCV is several times faster at it than torch
    batch, channels, height, width = images.shape
    pixels = np.empty((batch, height, width, channels), np.uint8)
    for planes, merged in zip(images.numpy(), pixels, strict=True):
        cv2.merge(tuple(planes), merged)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class SlottedCombined(SlottedExtractor):
    """Dict observations: a convolutional network per image, everything else flattened, all joined."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        cnn_output_dim: int = 256,
        network: str = "nature",
        batch_norm: bool = False,
        normalized_image: bool = False,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise UserError(f"the MultiInputPolicy needs Dict observations, not {type(observation_space).__name__}")
        extractors: dict[str, nn.Module] = {}
        width = 0
        for key, space in observation_space.spaces.items():
            if is_image_space(space, normalized_image=normalized_image):
                assert isinstance(space, spaces.Box)
                cnn = SlottedCNN(space, cnn_output_dim, network, batch_norm)
                extractors[key] = cnn
                width += cnn.features_dim
            else:
                extractors[key] = nn.Flatten()
                width += get_flattened_obs_dim(space)
        super().__init__(observation_space, width)
        self.extractors = nn.ModuleDict(extractors)
        self.at_every_step: nn.Module = nn.Identity()

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return the joined features ``(B, F)``, or ``(T * B, F)`` once filled and if there is an image."""
        parts = []
        for key, extractor in self.extractors.items():
            part = extractor(observations[key])
            parts.append(part if isinstance(extractor, SlottedCNN) else self.at_every_step(part))
        return torch.cat(parts, dim=1)

    def fill(self, neuron: str, steps: int) -> bool:
        """Let the images' networks spike and repeat the other inputs at every step."""
        images = [extractor for extractor in self.extractors.values() if isinstance(extractor, SlottedCNN)]
        for extractor in images:
            extractor.fill(neuron, steps)
        if images:
            self.at_every_step = ExpandTime(steps)
        return bool(images)
