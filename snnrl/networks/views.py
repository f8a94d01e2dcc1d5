"""What a network sees of grey frames when its input is to spike: planes of 0 and 1 in place of pixels.

A first layer on such planes adds weights and multiplies nothing. Encoding costs a subtraction and comparisons for each
pixel of the newest frame; the older frames' planes are those of the decisions before.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from snnrl.energy import LayerOperations, counts
from snnrl.energy.operations import Count


class View(nn.Module, ABC):
    """Frames as bytes ``(B, K, H, W)``, the newest one last, to planes ``(B, P, H, W)`` of 0 and 1.

    ``background`` is the byte that each pixel usually is, ``(H, W)``; a pixel stands out, or has changed, if it differs
    by more than ``threshold`` grey levels.
    """

    comparisons: ClassVar[int]
    """For each pixel of the newest frame."""

    def __init__(self, frames: int, height: int, width: int, threshold: int = 10) -> None:
        super().__init__()
        self.frames, self.threshold = frames, threshold
        self.background: Tensor
        self.register_buffer("background", torch.zeros(height, width, dtype=torch.uint8))

    @property
    @abstractmethod
    def planes(self) -> int:
        """P, how many planes there are."""

    @abstractmethod
    def forward(self, frames: Tensor) -> Tensor:
        """Return the planes, as floats."""

    def stands_out(self, frames: Tensor) -> Tensor:
        """Return where frames ``(B, K, H, W)`` of 16-bit integers differ from the background."""
        return (frames - self.background).abs() > self.threshold


class BinaryView(View):
    """Every frame's pixels that stand out from the background: K planes."""

    comparisons = 1

    @property
    def planes(self) -> int:
        """As many as frames."""
        return self.frames

    def forward(self, frames: Tensor) -> Tensor:
        """Return ``|frame - background| > threshold`` for each frame."""
        return self.stands_out(frames.to(torch.int16)).float()


class EventView(View):
    """Pixels of the newest frame that stand out, then those that grew brighter or darker from frame to frame: 2 K - 1.

    Without the first plane, what does not move could not be seen.
    """

    comparisons = 3

    @property
    def planes(self) -> int:
        """One, and two for each pair of successive frames."""
        return 2 * self.frames - 1

    def forward(self, frames: Tensor) -> Tensor:
        """Return the newest frame's plane, then brighter and darker ones, the oldest pair first."""
        frames = frames.to(torch.int16)
        change = frames[:, 1:] - frames[:, :-1]
        planes = (self.stands_out(frames[:, -1:]), change > self.threshold, change < -self.threshold)
        return torch.cat(planes, dim=1).float()


VIEWS: dict[str, type[View]] = {"binary": BinaryView, "events": EventView}


@counts(View)
def count_view(count: Count, name: str, view: View, frames: Tensor, planes: Tensor) -> None:
    """Subtractions and comparisons of the newest frame; the ordinary network has no such layer."""
    pixels = frames[0, 0].numel()
    count.grey = view.frames / view.planes
    count.layers.append(
        LayerOperations(
            name,
            count.decisions,
            passes=1,
            macs=0,
            spiking=False,
            events=0,
            active=0,
            inputs=pixels,
            outputs=0,
            parameters=0,
            biases=(view.comparisons + 1) // 2 * pixels,
            neurons=view.comparisons * pixels,
            steps=1,
            spikes=int(planes.sum(dtype=torch.float64)),
            grey=0.0,
        )
    )
