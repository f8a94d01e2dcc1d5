"""Write the part of CIFAR-10 that tests read: the first images of four classes, in the official binary layout."""

import argparse
import shutil
from pathlib import Path

import numpy as np

from snnrl.envs.images.cifar import CIFAR10
from snnrl.files import write_atomically

CLASSES = (0, 1, 6, 7)
"""Airplane, automobile, frog and horse."""
EACH = {"data_batch": 13, "test_batch": 16}
"""Images of a class in each file; together they stay below 1 MB."""


def main() -> None:
    """Copy the first images of each class, file by file, in the order of the file."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    options.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "tests" / "data" / "cifar10")
    arguments = options.parse_args()
    source = CIFAR10.download.find(arguments.data)
    target = arguments.output / CIFAR10.download.folder
    target.mkdir(parents=True, exist_ok=True)
    for name in (*CIFAR10.train, *CIFAR10.test):
        records = np.fromfile(source / name, np.uint8).reshape(-1, 3073)
        count = EACH[name[:10]]
        chosen = np.concatenate([np.flatnonzero(records[:, 0] == label)[:count] for label in CLASSES])
        write_atomically(target / name, records[np.sort(chosen)].tobytes())
    shutil.copyfile(source / CIFAR10.names, target / CIFAR10.names)


if __name__ == "__main__":
    main()
