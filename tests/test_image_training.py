"""Image classifiers to T = 1: every layout of image sets, every network, and what a small one must reach."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_images import idx

from snnrl.agents.classifier import Classifier
from snnrl.cli import main
from snnrl.envs.images.cifar import CIFAR10, CIFAR100, Cifar

DATA = Path(__file__).parent / "data" / "cifar10"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        return code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run


def summary_of(result: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = result
    assert code in (0, 3), err
    return dict(json.loads(out.splitlines()[-1]))


# --- sets whose classes are told apart by where they are bright ----------------------------------------------------

CLASSES = 4


def patterns(count: int, channels: int, side: int, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return images ``(N, C, side, side)`` of noise, one quarter bright, and which quarter it is."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 100, (count, channels, side, side), np.uint8)
    labels = np.arange(count) % CLASSES
    half = side // 2
    for image, label in zip(pixels, labels, strict=True):
        image[:, half * (label // 2) :, half * (label % 2) :][:, :half, :half] += 130
    return pixels, labels.astype(np.uint8)


def write_cifar(folder: Path, layout: Cifar) -> None:
    place = folder / layout.download.folder
    place.mkdir(parents=True)
    for number, file in enumerate((*layout.train, *layout.test)):
        pixels, labels = patterns(240 // len(layout.train), 3, 32, number)
        coarse = np.zeros((len(labels), layout.labels - 1), np.uint8)
        np.hstack([coarse, labels[:, None], pixels.reshape(len(labels), -1)]).tofile(place / file)


def write_mnist(folder: Path) -> None:
    place = folder / "MNIST" / "raw"
    place.mkdir(parents=True)
    for part, count, seed in (("train", 240, 0), ("t10k", 40, 1)):
        pixels, labels = patterns(count, 1, 28, seed)
        (place / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels[:, 0]))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


def write_folder(folder: Path) -> None:
    for part, count, seed in (("train", 240, 0), ("val", 40, 1)):
        pixels, labels = patterns(count, 3, 32, seed)
        # a colour each, too: random crops do not keep a place
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            image[np.arange(3) != label] //= 3
            file = folder / part / f"n{label:08}" / f"{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image.transpose(1, 2, 0))


SETS: dict[str, Callable[[Path], None]] = {
    "cifar10": lambda folder: write_cifar(folder, CIFAR10),
    "cifar100": lambda folder: write_cifar(folder, CIFAR100),
    "mnist": write_mnist,
    "folder": write_folder,
}
SHORT = "--schedule 2,1 --network.width 0.125 --network.hidden 16 --gate.tolerance 1 --conversion.images 64 "
SHORT += "--ann.batch-size 12 --ann.schedule one-cycle --ann.learning-rate 0.05 --ann.dropout 0 --device cpu "
SHORT += "--reduction.batch-size 12 --reduction.schedule one-cycle --reduction.learning-rate 1e-3 --reduction.dropout 0"
LEARNS = "--ann.epochs 6 --ann.learning-rate 0.05 --ann.dropout 0.3 --reduction.epochs 3 --reduction.dropout 0.1"
TOUCHES = "--ann.epochs 1 --reduction.epochs 1"


@pytest.mark.parametrize(
    ("recipe", "images", "flags", "shape", "least"),
    [
        ("mnist", "mnist", LEARNS, (1, 28, 28), 0.5),
        ("cifar10-vgg6", "cifar10", LEARNS, (3, 32, 32), 0.5),
        ("cifar10-vgg6", "cifar100", f"--images cifar100 {LEARNS}", (3, 32, 32), 0.5),
        ("imagenet-vgg16", "folder", f"--network.kind vgg6 --size 24 {LEARNS}", (3, 24, 24), 0.5),
        ("cifar10-vgg16", "cifar10", TOUCHES, (3, 32, 32), 0.0),
        ("cifar10-resnet20", "cifar10", TOUCHES, (3, 32, 32), 0.0),
        ("cifar100-resnet20", "cifar100", TOUCHES, (3, 32, 32), 0.0),
    ],
)
def test_every_set_and_network(
    call: Call, tmp_path: Path, recipe: str, images: str, flags: str, shape: tuple[int, ...], least: float
) -> None:
    SETS[images](tmp_path)
    words = ["train", recipe, "--data", str(tmp_path), "--run", "run", "--json", *SHORT.split(), *flags.split()]
    found = summary_of(call(*words))
    assert [stage["T"] for stage in found["stages"]] == [None, 2, 1]
    for stage in found["stages"]:
        classifier = Classifier.load(Path("run") / stage["agent"], "cpu")
        assert classifier.description.image_shape == shape
        assert stage["accuracy"] >= least
        assert all(0 < rate < 2 for rate in stage["spike_rate"].values())


def test_imagenet_at_its_size(call: Call, tmp_path: Path) -> None:
    write_folder(tmp_path)
    for file in (tmp_path / "train").glob("*/*.JPEG"):
        if int(file.stem) >= 12:
            file.unlink()
    words = ["train", "imagenet-vgg16", "--data", str(tmp_path), "--run", "run", "--json", *SHORT.split()]
    flags = [*TOUCHES.split(), "--schedule", "1", "--network.width", "0.03"]
    found = summary_of(call(*words, *flags))
    assert found["images"] == {"train": 11, "validation": 1, "test": 40, "note": None}
    assert Classifier.load(Path("run/T1.zip"), "cpu").description.image_shape == (3, 224, 224)


# --- real images ---------------------------------------------------------------------------------------------------

REAL = "--network.width 0.25 --network.hidden 64 --gate.tolerance 1 --precision fp32 --conversion.percentile 98 "
REAL += "--ann.epochs 15 --ann.batch-size 18 --ann.learning-rate 0.05 --ann.dropout 0.3 "
REAL += "--reduction.passing 2 --reduction.epochs 12 --reduction.batch-size 9 "
REAL += "--reduction.learning-rate 2e-3 --reduction.dropout 0 --reduction.distillation 0.5 --device cpu"


def test_real_images_to_one_timestep(call: Call) -> None:
    # 234 images of four classes to learn from, 64 to test with; chance is 0.25. 13 to 18 s of one core.
    # Seeds 0 to 6, ordinary: 0.77 0.66 0.64 0.73 0.66 0.58 0.75; T = 1: 0.58 0.47 0.61 0.59 0.67 0.63 0.61.
    found = summary_of(call("train", "cifar10-vgg6", "--data", str(DATA), "--json", *REAL.split()))
    accuracy = {stage["name"]: stage["accuracy"] for stage in found["stages"]}
    assert list(accuracy) == ["ann", "T5", "T3", "T1"]
    assert accuracy["ann"] >= 0.5
    assert accuracy["T1"] >= 0.4
