"""Images per second that the training batches of image sets give, augmented and normalised, and from image files.

The peer of stored images is torch alone: index, pad and crop one image after the other. That of files is decoding in
one thread. Batches are made by threads of their own: confine all to one core with ``taskset -c 0``.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rows import Rows, parser
from torch.nn import functional

from snnrl.envs.images import Images, Normalization, TrainingBatches
from snnrl.envs.images.folder import ImageFiles, random_crop, read_image
from snnrl.envs.images.images import PADDING, StoredImages

SIZE = 128
"""Images of a batch."""
STORED = 50_000
FILES = 256
SIDES = (375, 500)
"""Of the image files, about those of ImageNet."""


def stored() -> StoredImages:
    """Return as many images as CIFAR has, of noise."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (STORED, 3, 32, 32), np.uint8)
    return StoredImages(pixels, generator.integers(0, 10, STORED), mirrored=True)


def image_files(folder: str) -> ImageFiles:
    """Write JPEG files with smooth content and return them."""
    generator = np.random.default_rng(0)
    files = [str(Path(folder) / f"{number}.jpg") for number in range(FILES)]
    for file in files:
        coarse = generator.integers(0, 256, (24, 32, 3), np.uint8)
        cv2.imwrite(file, cv2.resize(coarse, SIDES[::-1], interpolation=cv2.INTER_CUBIC))
    return ImageFiles(files, np.zeros(FILES, np.int64), 224)


def epoch_speed(images: Images, normalization: Normalization, epoch: int) -> float:
    """Return images per second over one epoch."""
    batches = TrainingBatches(images, SIZE, 0, normalization)
    start = time.perf_counter()
    count = sum(len(batch.labels) for batch in batches.epoch(epoch))
    return count / (time.perf_counter() - start)


def one_by_one(images: StoredImages, normalization: Normalization) -> float:
    """Return images per second of the same work, image by image in torch."""
    pixels, generator = torch.from_numpy(images.pixels), torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for batch in torch.randperm(len(pixels), generator=generator)[: 20 * SIZE].view(20, SIZE):
        crops = []
        for padded in functional.pad(pixels[batch], [PADDING] * 4):
            top, left = torch.randint(2 * PADDING + 1, (2,), generator=generator).tolist()
            crop = padded[:, top : top + 32, left : left + 32]
            crops.append(crop.flip(2) if torch.rand((), generator=generator) < 0.5 else crop)
        normalization.apply(torch.stack(crops))
    return 20 * SIZE / (time.perf_counter() - start)


def decoded_one_by_one(images: ImageFiles, normalization: Normalization) -> float:
    """Return images per second of the same work, decoded and cropped one after the other."""
    generator = np.random.default_rng(0)
    start = time.perf_counter()
    for files in batched(images.files):
        crops = [random_crop(read_image(file), images.size, generator).transpose(2, 0, 1) for file in files]
        normalization.apply(torch.from_numpy(np.stack(crops)))
    return len(images) / (time.perf_counter() - start)


def batched(files: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the files in batches."""
    yield from (files[first : first + SIZE] for first in range(0, len(files), SIZE))


def main() -> None:
    """Let ours and the peer take turns and print the medians; a ratio above 1 is faster than the peer."""
    options = parser(__doc__, rounds=5, threads=2).parse_args()
    torch.set_num_threads(options.threads)
    rows = Rows(options.threads)

    def measure(name: str, images: Images, peer: str, theirs: Callable[[Normalization], float]) -> None:
        normalization = Normalization.measured(images)
        speeds = [(epoch_speed(images, normalization, r), theirs(normalization)) for r in range(options.rounds)]
        ours, others = zip(*speeds, strict=True)
        best = {"best": round(max(ours), 1), "peer_best": round(max(others), 1)}
        rows.add(name, statistics.median(ours), "images/s", peer, statistics.median(others), **best)

    images = stored()
    measure("32x32, crop and flip", images, "torch, image by image", lambda n: one_by_one(images, n))
    with tempfile.TemporaryDirectory() as folder:
        files = image_files(folder)
        measure("JPEG 500x375, crop 224x224", files, "decoding in one thread", lambda n: decoded_one_by_one(files, n))
    rows.write(options.output)


if __name__ == "__main__":
    main()
