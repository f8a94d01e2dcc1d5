"""Image sets by name, from a folder that the user gives; nothing is downloaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snnrl.envs.images.cifar import CIFAR10, CIFAR100
from snnrl.envs.images.folder import read_folder
from snnrl.envs.images.idx import MNIST, read_idx
from snnrl.envs.images.images import Images
from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted

LAYOUTS = ("cifar10", "cifar100", "mnist", "folder")

HELD_OUT = 0.1
"""Share of the training images that are kept for validation."""
HELD_OUT_SEED = 0
"""The same for all runs, so that no run trains on what another one validates with."""


@dataclass(frozen=True)
class ImageSet:
    """Images to train on, to choose by, and to report, in this order; no image is in two of them."""

    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    note: str | None
    """What must be said beside figures that are measured on these images."""

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that tell these images and classes from others."""
        parts = [part.fingerprint() for part in (self.train, self.validation, self.test)]
        return hashlib.sha256("\n".join([*self.classes, *parts]).encode(errors="replace")).hexdigest()[:16]


def read_images(layout: str, folder: str | Path, size: int = 224) -> ImageSet:
    """Return the images in ``folder``, in one of :data:`LAYOUTS`; ``size`` is the side of crops of image files.

    Raises:
        UserError: there is no such layout, a file is missing, damaged or of another layout, or images are too few.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout of images {layout!r}{did_you_mean(layout, LAYOUTS)}")
    train: Images
    validation: Images | None = None
    test: Images
    if layout == "folder":
        train, validation, test, classes = read_folder(Path(folder), size)
        note = None
    elif layout == "mnist":
        place = MNIST.find(Path(folder))
        train, test, classes = read_idx(place)
        note = MNIST.note(place)
    else:
        cifar = CIFAR10 if layout == "cifar10" else CIFAR100
        place = cifar.download.find(Path(folder))
        train, test, classes = cifar.read(place)
        note = cifar.download.note(place)
    if len(np.unique(train.labels)) < 2:
        raise UserError(f"{quoted(folder)}: all {len(train)} training images are of one class, two are needed")
    if validation is None:
        train, validation = hold_out(train)
    return ImageSet(classes, train, validation, test, note)


def hold_out(images: Images) -> tuple[Images, Images]:
    """Return nine tenths of the images to train on and one tenth for validation, always the same.

    Raises:
        UserError: there is but one image.
    """
    if len(images) < 2:
        raise UserError("one image cannot be split for training and validation: add images")
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(images))
    held = max(1, round(HELD_OUT * len(images)))
    return images.subset(np.sort(order[held:])), images.subset(np.sort(order[:held]))
