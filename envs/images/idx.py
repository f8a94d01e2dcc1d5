"""MNIST and its kin as IDX files, plain or gzipped: a magic number, big-endian sizes, then bytes."""

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from snnrl.envs.images.images import StoredImages
from snnrl.envs.images.official import Download, unpacked
from snnrl.errors import UserError
from snnrl.files import MIB, quoted, read_bytes

MOST_BYTES = 1024 * MIB
"""Of a file, also once it is unpacked."""

MNIST = Download(
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
    "of MNIST at http://yann.lecun.com/exdb/mnist",
    "MNIST/raw",
    {
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
)


def read_idx(place: Path) -> tuple[StoredImages, StoredImages, tuple[str, ...]]:
    """Return the images to train on, those to test with, and the classes' names, which are their numbers.

    Raises:
        UserError: a file is damaged or of another layout, or the files do not belong together.
    """
    train, test = (_read_pair(place, part) for part in ("train", "t10k"))
    if train.shape != test.shape:
        raise UserError(
            f"{quoted(place)}: training images of {train.shape[1:]} pixels, test images of {test.shape[1:]}: give "
            "files of one image set"
        )
    classes = int(train.labels.max()) + 1
    if test.labels.max() >= classes:
        raise UserError(
            f"{quoted(place)}: a test image has the label {test.labels.max()}, training images have labels up to "
            f"{classes - 1}: give files of one image set"
        )
    return train, test, tuple(str(label) for label in range(classes))


def _read_pair(place: Path, part: str) -> StoredImages:
    images, labels = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
    pixels, classes = _read_array(place / images, 3), _read_array(place / labels, 1)
    if len(pixels) != len(classes):
        raise UserError(
            f"{quoted(place)}: {images} holds {len(pixels)} images, {labels} {len(classes)} labels: give files that "
            "belong together"
        )
    return StoredImages(pixels[:, None], classes.astype(np.int64), mirrored=False)


def _read_array(packed: Path, dimensions: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the bytes of a file, or of the same without gzip, as an array with so many dimensions."""
    path = packed if packed.exists() else packed.with_name(unpacked(packed.name))
    data = read_bytes(path, MOST_BYTES)
    if path == packed:
        data = _unpack(data, path)
    header = 4 * (1 + dimensions)
    sizes: tuple[int, ...] = ()
    if len(data) >= header and data[:4] == bytes((0, 0, 8, dimensions)):  # 8: bytes
        sizes = struct.unpack(f">{dimensions}I", data[4:header])
    if not sizes or not math.prod(sizes) or len(data) != header + math.prod(sizes):
        raise UserError(
            f"{quoted(path)} is not a whole IDX file of bytes in {dimensions} dimension(s): it is cut off, damaged or "
            f"of another layout; {MNIST.advice}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(sizes)


def _unpack(data: bytes, path: Path) -> bytes:
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(data, MOST_BYTES + 1)
    except zlib.error as error:
        raise UserError(f"{quoted(path)} is not a whole gzip file: {error}; {MNIST.advice}") from error
    if len(unpacked) > MOST_BYTES:
        raise UserError(f"{quoted(path)} unpacks to more than {MOST_BYTES // MIB} MiB: it is no image set")
    return unpacked
