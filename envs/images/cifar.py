"""CIFAR-10 and CIFAR-100 in their official binary layouts: records of labels and 32x32 pixels, a plane per colour."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snnrl.envs.images.images import StoredImages
from snnrl.envs.images.official import Download
from snnrl.errors import UserError
from snnrl.files import quoted, read_bytes

SHAPE = (3, 32, 32)
MOST_BYTES = 2**28
"""Of a file; the largest official one has 154 MB."""


@dataclass(frozen=True)
class Cifar:
    """One of the two layouts."""

    download: Download
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """File with the classes' names, a line each."""
    classes: int
    labels: int
    """Bytes of labels in front of the pixels; the last one is the class."""

    def read(self, place: Path) -> tuple[StoredImages, StoredImages, tuple[str, ...]]:
        """Return the images to train on, those to test with, and the classes' names.

        Raises:
            UserError: a file does not hold whole records, or has a label that is no class.
        """
        return self._read_all(place, self.train), self._read_all(place, self.test), self._read_names(place)

    def _read_all(self, place: Path, files: tuple[str, ...]) -> StoredImages:
        records = np.concatenate([self._read_records(place / file) for file in files])
        pixels = records[:, self.labels :].reshape(-1, *SHAPE)
        return StoredImages(pixels, records[:, self.labels - 1].astype(np.int64), mirrored=True)

    def _read_records(self, path: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
        data = np.frombuffer(read_bytes(path, MOST_BYTES), np.uint8)
        length = self.labels + int(np.prod(SHAPE))
        if not len(data) or len(data) % length:
            raise UserError(
                f"{quoted(path)} has {len(data)} bytes, which is not a whole number of records of {length}: it is cut "
                f"off or of another layout; {self.download.advice}"
            )
        records = data.reshape(-1, length)
        wrong = np.flatnonzero(records[:, self.labels - 1] >= self.classes)
        if len(wrong):
            raise UserError(
                f"{quoted(path)}: record {wrong[0]} has the label {records[wrong[0], self.labels - 1]}, but there are "
                f"{self.classes} classes: it is damaged or of another layout; {self.download.advice}"
            )
        return records

    def _read_names(self, place: Path) -> tuple[str, ...]:
        path = place / self.names
        if not path.exists():
            return tuple(str(label) for label in range(self.classes))
        names = tuple(read_bytes(path, MOST_BYTES).decode("utf-8", "replace").split())
        if len(names) != self.classes:
            raise UserError(
                f"{quoted(path)} names {len(names)} classes instead of {self.classes}; restore or delete it"
            )
        return names


CIFAR10 = Cifar(
    Download(
        "cifar-10-binary.tar.gz (the binary version) at https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-batches-bin",
        {
            "data_batch_1.bin": "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "data_batch_2.bin": "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "data_batch_3.bin": "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "data_batch_4.bin": "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "data_batch_5.bin": "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
            "test_batch.bin": "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
        },
    ),
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    names="batches.meta.txt",
    classes=10,
    labels=1,
)
CIFAR100 = Cifar(
    Download(
        "cifar-100-binary.tar.gz (the binary version) at https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-100-binary",
        {
            "train.bin": "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
            "test.bin": "sha1:8fb6623e830365ff53cf14adec797474f5478006",
        },
    ),
    train=("train.bin",),
    test=("test.bin",),
    names="fine_label_names.txt",
    classes=100,
    labels=2,
)
