"""Batches of normalised images, in an order that a run can be resumed in at any batch."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snnrl.envs.images.images import Images, Labels, Pixels

AHEAD = 2
"""Batches that are made while one is used."""

MEASURED = 2**28
"""Bytes of pixels, at most, that mean and deviation are taken of."""


class Batch(NamedTuple):
    """Images ``(B, C, H, W)``, normalised, and their labels ``(B,)``."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, in units of the brightest pixel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def measured(cls, images: Images) -> "Normalization":
        """Return those of ``images``, or of so many of them, evenly spread, as fit into 256 MiB."""
        count = max(1, min(len(images), MEASURED // int(np.prod(images.shape))))
        seen = np.zeros((images.shape[0], 256))
        for part in np.array_split(np.linspace(0, len(images) - 1, count).astype(np.int64), count // 1000 + 1):
            for histogram, values in zip(seen, images.read(part).swapaxes(0, 1), strict=True):
                histogram += np.bincount(values.reshape(-1), minlength=256)
        share = seen / seen.sum(1, keepdims=True)
        levels = np.arange(256) / 255
        mean = share @ levels
        # a channel of one colour has no deviation to divide by
        std = np.sqrt(np.maximum(share @ levels**2 - mean**2, 1 / 255**2))
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    @property
    def largest(self) -> float:
        """The size of the largest value that a byte can become."""
        return max(max(mean, 1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))

    def apply(self, pixels: Tensor) -> Tensor:
        """Return bytes ``(B, C, H, W)`` as floats of mean 0 and deviation 1 in each channel."""
        mean, std = (torch.tensor(values, device=pixels.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return pixels.float().sub_(255 * mean).div_(255 * std)


class TrainingBatches:
    """Augmented batches of ``size`` images; what does not fill a batch is left out of an epoch.

    Order and augmentation of a batch are functions of ``seed``, epoch and batch alone. ``share`` ``(i, n)`` is the i-th
    of n equal parts of each batch.
    """

    def __init__(
        self,
        images: Images,
        size: int,
        seed: int,
        normalization: Normalization,
        device: str | torch.device = "cpu",
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = images
        self.size = min(size, len(images))
        self.seed = seed
        self.normalization = normalization
        self.device = device
        part, parts = share
        self.rows = slice(part * self.size // parts, (part + 1) * self.size // parts)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.images) // self.size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from the one numbered ``start``."""
        order = self._generator(epoch, 0).permutation(len(self.images))
        chosen = order[: len(self) * self.size].reshape(len(self), self.size)

        def augmented(number: int) -> Pixels:
            return self.images.augmented(chosen[number], self._generator(epoch, number + 1), self.rows)

        for number, pixels in _ahead(augmented, range(start, len(self))):
            yield _batch(pixels, self.images.labels[chosen[number, self.rows]], self.normalization, self.device)

    def _generator(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, purpose))


def in_order(
    images: Images, size: int, normalization: Normalization, device: str | torch.device = "cpu"
) -> Iterator[Batch]:
    """Yield all images as they are tested, in batches of ``size``."""
    chosen = np.split(np.arange(len(images)), range(size, len(images), size))
    for number, pixels in _ahead(lambda number: images.read(chosen[number]), range(len(chosen))):
        yield _batch(pixels, images.labels[chosen[number]], normalization, device)


def _ahead(make: Callable[[int], Pixels], numbers: range) -> Iterator[tuple[int, Pixels]]:
    """Yield what ``make`` returns for each number, made by another thread while the ones before are used."""
    with ThreadPoolExecutor(1) as worker:
        coming: deque[tuple[int, Future[Pixels]]] = deque()
        for number in numbers:
            coming.append((number, worker.submit(make, number)))
            if len(coming) > AHEAD:
                due, pixels = coming.popleft()
                yield due, pixels.result()
        for due, pixels in coming:
            yield due, pixels.result()


def _batch(pixels: Pixels, labels: Labels, normalization: Normalization, device: str | torch.device) -> Batch:
    images = torch.from_numpy(pixels).to(device)
    return Batch(normalization.apply(images), torch.from_numpy(labels).to(device))
