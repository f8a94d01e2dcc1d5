"""Folders of image files, one folder a class, as ImageNet is usually kept; files are decoded when they are needed."""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from snnrl.envs.images.images import ALL, Images, Labels, Pixels
from snnrl.errors import UserError, did_you_mean
from snnrl.files import quoted

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LAYOUT = "give a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or with CLASS/*.jpg alone"

SMALLEST_AREA = 0.08
"""Share of an image that a random crop covers at least (Szegedy et al. 2014, arXiv 1409.4842, Sec. 6)."""
LONGEST = 4 / 3
"""Aspect of a random crop at most, lying or standing (there as well)."""
MARGIN = 8 / 7
"""Shorter side of a tested image over the side of its central crop: 256 pixels for 224."""

Image = np.ndarray[Any, np.dtype[np.uint8]]


class ImageFiles(Images):
    """Image files in folders: tested by their central square, trained on as crops of random size, place and aspect.

    Every other crop is flipped. Images are ``size`` pixels a side, their colours R, G, B.
    """

    def __init__(self, files: Sequence[str], labels: Labels, size: int) -> None:
        super().__init__(labels)
        self.files = files
        self.size = size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return 3, self.size, self.size

    def fingerprint(self) -> str:
        """Return the SHA-256 of the files' sizes, their names and those of their folders: none of them is read."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update("/".join((*Path(file).parts[-2:], str(os.path.getsize(file)))).encode(errors="replace"))
        return digest.hexdigest()

    def subset(self, indices: Labels) -> "ImageFiles":
        """Return the images at these places."""
        return ImageFiles([self.files[index] for index in indices], self.labels[indices], self.size)

    def read(self, indices: Labels) -> Pixels:
        """Return the central squares."""
        return self._decode(indices, lambda image, _: central_square(image, self.size))

    def augmented(self, indices: Labels, generator: np.random.Generator, rows: slice = ALL) -> Pixels:
        """Return random crops; each image has a seed of its own, so that threads may take turns as they like."""
        seeds = generator.integers(2**63, size=len(indices))[rows]
        return self._decode(
            indices[rows], lambda image, place: random_crop(image, self.size, np.random.default_rng(seeds[place]))
        )

    def _decode(self, indices: Labels, change: Callable[[Image, int], Image]) -> Pixels:
        pixels = np.empty((len(indices), *self.shape), np.uint8)

        def one(place: int) -> None:
            pixels[place] = change(read_image(self.files[indices[place]]), place).transpose(2, 0, 1)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(one, range(len(indices))))
        return pixels


def read_image(path: str) -> Image:
    """Return the image in a file, ``(H, W, 3)``, R, G, B.

    Raises:
        UserError: the file cannot be read or decoded.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {quoted(path)}: {error.strerror}; check the file's permissions") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise undecodable(path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def undecodable(path: str) -> UserError:
    """Return the error for a file that holds no whole image."""
    return UserError(f"cannot decode {quoted(path)}: it is damaged or no image; restore or delete it")


def central_square(image: Image, size: int) -> Image:
    """Return the centre of an image ``(H, W, 3)`` whose shorter side was scaled to ``MARGIN * size``."""
    height, width = image.shape[:2]
    side = round(min(height, width) / MARGIN)
    return resized(image[(height - side) // 2 :, (width - side) // 2 :][:side, :side], size)


def random_crop(image: Image, size: int, generator: np.random.Generator) -> Image:
    """Return a random part of an image ``(H, W, 3)`` scaled to a square, every other one flipped."""
    height, width = image.shape[:2]
    area = generator.uniform(SMALLEST_AREA, 1) * height * width
    aspect = math.exp(generator.uniform(-math.log(LONGEST), math.log(LONGEST)))
    tall, wide = (
        min(whole, max(1, round(math.sqrt(part)))) for whole, part in ((height, area / aspect), (width, area * aspect))
    )
    top, left = generator.integers(height - tall + 1), generator.integers(width - wide + 1)
    crop = resized(image[top : top + tall, left : left + wide], size)
    return crop[:, ::-1] if generator.random() < 0.5 else crop


def resized(image: Image, size: int) -> Image:
    """Return an image scaled to a square, averaged over areas where it shrinks."""
    shrinks = min(image.shape[:2]) >= size
    scaled = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return scaled.astype(np.uint8, copy=False)


def read_folder(folder: Path, size: int) -> tuple[ImageFiles, ImageFiles | None, ImageFiles, tuple[str, ...]]:
    """Return the images to train on, to validate with if they are apart, and to test with, and the classes' names.

    With ``train`` and ``val`` the latter is the test set, as ImageNet's own test set has no labels, unless there is a
    ``test`` beside it. In a folder of classes alone, every tenth file by a checksum of its name is for the test, so
    that a file never changes sides when others are added.

    Raises:
        UserError: the layout is another one, or the parts have different classes.
    """
    parts = {part: folder / part for part in ("train", "val", "test") if (folder / part).is_dir()}
    if not parts:
        return *_split_by_name(folder, size), _classes(folder)
    if "train" not in parts or len(parts) < 2:
        raise UserError(f"{quoted(folder)} has {' and '.join(parts)} without the other part: {LAYOUT}")
    classes = _classes(parts["train"])
    images = {part: _images(path, classes, size) for part, path in parts.items()}
    test = images.get("test", images.get("val"))
    assert test is not None
    return images["train"], images.get("val") if "test" in images else None, test, classes


def _split_by_name(folder: Path, size: int) -> tuple[ImageFiles, None, ImageFiles]:
    images = _images(folder, _classes(folder), size)
    names = (os.path.relpath(file, folder).replace(os.sep, "/") for file in images.files)
    tested = np.array([zlib.crc32(name.encode()) % 10 == 0 for name in names])
    if tested.all() or not tested.any():
        raise UserError(f"{quoted(folder)} has too few images, {len(images)}, to split: {LAYOUT}")
    return images.subset(np.flatnonzero(~tested)), None, images.subset(np.flatnonzero(tested))


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"{quoted(folder)} is no folder: {LAYOUT}")
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    for name in classes:
        _check_name(folder, name)
    if len(classes) < 2:
        raise UserError(f"{quoted(folder)} has {len(classes)} folders of classes, at least two are needed: {LAYOUT}")
    return classes


def _images(folder: Path, classes: tuple[str, ...], size: int) -> ImageFiles:
    for name in _classes(folder):
        if name not in classes:
            raise UserError(f"{quoted(folder / name)} is no class of the training images{did_you_mean(name, classes)}")
    found = [(file, label) for label, name in enumerate(classes) for file in _files(folder / name)]
    return ImageFiles([file for file, _ in found], np.array([label for _, label in found], np.int64), size)


def _files(folder: Path) -> Iterator[str]:
    """Yield the image files of one class, sorted by name."""
    if not folder.is_dir():
        raise UserError(f"{quoted(folder)} is missing: every part needs a folder for each class")
    found = (path.name for path in os.scandir(folder))
    names = sorted(name for name in found if name.lower().endswith(SUFFIXES) and not name.startswith("."))
    if not names:
        raise UserError(f"{quoted(folder)} holds no image ({', '.join(SUFFIXES)}): add some, or delete the folder")
    for name in names:
        _check_name(folder, name)
        file = str(folder / name)
        if not cv2.haveImageReader(file):  # it reads the first bytes
            raise undecodable(file)
        yield file


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{quoted(folder / name)}: the name is not UTF-8, and OpenCV cannot open it: rename it"
        ) from error
