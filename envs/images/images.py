"""Labelled images of one shape, read as bytes, with the augmentation that belongs to them."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Labels: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

ALL = slice(None)
PADDING = 4
"""Black pixels on each side before an image is cropped at random (arXiv 2110.05929, App. A.2.2)."""


class Images(ABC):
    """N images and their ``labels`` ``(N,)``."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a text that tells these images and their labels from others."""

    @abstractmethod
    def subset(self, indices: Labels) -> "Images":
        """Return the images at these places."""

    @abstractmethod
    def read(self, indices: Labels) -> Pixels:
        """Return the images at these places as they are tested, ``(B, C, H, W)``."""

    @abstractmethod
    def augmented(self, indices: Labels, generator: np.random.Generator, rows: slice = ALL) -> Pixels:
        """Return ``rows`` of them as they are trained on, ``(B, C, H, W)``: changed at random, by ``generator`` alone.

        An image is changed in the same way whatever the other rows are that are asked for.
        """


class StoredImages(Images):
    """Images in memory, ``pixels`` ``(N, C, H, W)``: tested whole, trained on as crops of the padded image.

    With ``mirrored`` every other crop is flipped from left to right.
    """

    def __init__(self, pixels: Pixels, labels: Labels, *, mirrored: bool) -> None:
        super().__init__(labels)
        self.pixels = pixels
        self.mirrored = mirrored

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, pixels and labels."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def subset(self, indices: Labels) -> "StoredImages":
        """Return a copy of the images at these places."""
        return StoredImages(self.pixels[indices], self.labels[indices], mirrored=self.mirrored)

    def read(self, indices: Labels) -> Pixels:
        """Return the images at these places."""
        return self.pixels[indices]

    def augmented(self, indices: Labels, generator: np.random.Generator, rows: slice = ALL) -> Pixels:
        """Return a window of each padded image, at a random place."""
        tops, lefts = generator.integers(2 * PADDING + 1, size=(2, len(indices)))[:, rows]
        count, (channels, height, width) = len(tops), self.shape
        padded = np.zeros((count, channels, height + 2 * PADDING, width + 2 * PADDING), np.uint8)
        padded[:, :, PADDING:-PADDING, PADDING:-PADDING] = self.pixels[indices[rows]]
        crops = sliding_window_view(padded, (height, width), axis=(2, 3))[np.arange(count), :, tops, lefts]
        if self.mirrored:
            flipped = generator.random(len(indices))[rows] < 0.5
            crops[flipped] = crops[flipped, ..., ::-1]
        return crops
