"""Image sets: official layouts, every bad file, augmentation, batches that a run can be resumed in."""

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from snnrl.envs.images import LAYOUTS, ImageSet, Normalization, TrainingBatches, hold_out, in_order, read_images
from snnrl.envs.images.cifar import CIFAR10, CIFAR100
from snnrl.envs.images.folder import ImageFiles, central_square, random_crop
from snnrl.envs.images.images import PADDING, StoredImages
from snnrl.envs.images.official import Download
from snnrl.errors import UserError

SUBSET = Path(__file__).parent / "data" / "cifar10"


def noise(*shape: int, seed: int = 0) -> "np.ndarray":
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_cifar(folder: Path, count: int = 4, labels: int = 1, names: tuple[str, ...] | None = None) -> None:
    """Write records whose first byte of pixels is their place in the file and whose class is that modulo 10."""
    folder.mkdir(parents=True, exist_ok=True)
    train = CIFAR10.train if labels == 1 else CIFAR100.train
    for number, name in enumerate([*train, (CIFAR10 if labels == 1 else CIFAR100).test[0]]):
        records = noise(count, labels + 3072, seed=number)
        records[:, labels - 1] = np.arange(count) % 10
        records[:, labels] = np.arange(count)
        records.tofile(folder / name)
    if names:
        (folder / (CIFAR10.names if labels == 1 else CIFAR100.names)).write_text("\n".join(names) + "\n\n")


def idx(array: "np.ndarray") -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, pack: bool = False, train: int = 20, side: int = 5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", 3)):
        for kind, array in (("images-idx3", noise(count, side, side)), ("labels-idx1", np.arange(count) % 4)):
            data = idx(array.astype(np.uint8))
            name = f"{part}-{kind}-ubyte"
            (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(data) if pack else data)


def write_images(folder: Path, count: int, classes: tuple[str, ...] = ("cat", "dog"), side: int = 16) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = np.full((side, side + 4, 3), (0, 0, 50 * label + number), np.uint8)  # blue, green, red
            cv2.imwrite(str(folder / name / f"{number}.png"), image)


def everything(layout: str, folder: Path) -> ImageSet:
    write: dict[str, Callable[[Path], None]] = {
        "cifar10": write_cifar,
        "cifar100": lambda place: write_cifar(place, 20, 2),
        "mnist": write_mnist,
        "folder": lambda place: write_images(place, 30),
    }
    write[layout](folder)
    return read_images(layout, folder, size=8)


# --- layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin"])
def test_cifar10(tmp_path: Path, place: str) -> None:
    names = ("airplane", *"bcdefghij")
    write_cifar(tmp_path / place, 4, names=names)
    images = read_images("cifar10", tmp_path)
    assert images.classes == names
    assert (len(images.train), len(images.validation), len(images.test)) == (18, 2, 4)
    assert images.test.shape == (3, 32, 32)
    record = np.fromfile(tmp_path / place / "test_batch.bin", np.uint8).reshape(4, 3073)[2]
    pixels = images.test.read(np.array([2]))[0]
    assert images.test.labels[2] == record[0] == 2
    # a plane per colour, row by row
    assert pixels[1, 3, 5] == record[1 + 1024 + 3 * 32 + 5]
    assert pixels[2, 31, 31] == record[-1]
    assert images.note is not None
    assert images.note.startswith("not the official files: data_batch_1.bin, ")


def test_cifar100_is_read_by_its_fine_labels(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-100-binary", 20, labels=2)
    images = read_images("cifar100", tmp_path)
    assert images.classes == tuple(str(label) for label in range(100))
    assert images.test.labels.tolist() == [*range(10), *range(10)]
    assert images.test.read(np.arange(20))[:, 0, 0, 0].tolist() == list(range(20))


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
@pytest.mark.parametrize("pack", [True, False])
def test_mnist(tmp_path: Path, pack: bool, place: str) -> None:
    write_mnist(tmp_path / place, pack)
    images = read_images("mnist", tmp_path)
    assert images.classes == ("0", "1", "2", "3")
    assert (len(images.train), len(images.validation), len(images.test)) == (18, 2, 3)
    assert images.test.labels.tolist() == [0, 1, 2]
    assert np.array_equal(images.test.read(np.arange(3))[:, 0], noise(3, 5, 5))


def test_folders_of_images(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 10)
    write_images(tmp_path / "val", 3)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    images = read_images("folder", tmp_path, size=8)
    assert (images.classes, images.note) == (("cat", "dog"), None)
    assert (len(images.train), len(images.validation), len(images.test)) == (18, 2, 6)
    assert images.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    # red, green, blue; files by their names
    assert images.test.read(np.array([5]))[0, :, 0, 0].tolist() == [52, 0, 0]
    write_images(tmp_path / "test", 4)
    images = read_images("folder", tmp_path, size=8)
    assert (len(images.train), len(images.validation), len(images.test)) == (20, 6, 8)


def test_a_file_never_changes_sides(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    before = read_images("folder", tmp_path, size=8)
    assert len(before.train) + len(before.validation) + len(before.test) == 80
    for name in "cat", "dog":
        (tmp_path / name / "0.png").rename(tmp_path / name / "new.png")
    after = read_images("folder", tmp_path, size=8)
    assert isinstance(before.test, ImageFiles)
    assert isinstance(after.test, ImageFiles)
    assert 1 < len(before.test) < 20
    moved = {file for file in before.test.files if not file.endswith("/0.png")} ^ set(after.test.files)
    assert all(file.endswith("/new.png") for file in moved)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_fingerprint_tells_sets_apart(tmp_path: Path, layout: str) -> None:
    whole = everything(layout, tmp_path).fingerprint()
    assert read_images(layout, tmp_path, size=8).fingerprint() == whole
    file = max(tmp_path.rglob("*.*" if layout != "mnist" else "*"), key=lambda path: path.stat().st_size)
    if layout == "folder":
        file.unlink()
    else:
        put(file, file.stat().st_size - 1, file.read_bytes()[-1] ^ 1)
    assert read_images(layout, tmp_path, size=8).fingerprint() != whole


def test_one_class_is_no_task(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    for part, count in (("train", 20), ("t10k", 3)):
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count, np.uint8)))
    with pytest.raises(UserError, match="all 20 training images are of one class, two are needed"):
        read_images("mnist", tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_image_is_in_two_parts(tmp_path: Path, layout: str) -> None:
    found = everything(layout, tmp_path)
    counts = [len(part) for part in (found.train, found.validation, found.test)]
    assert all(counts)
    if isinstance(found.train, ImageFiles):
        parts = [part for part in (found.train, found.validation, found.test) if isinstance(part, ImageFiles)]
        assert len({file for part in parts for file in part.files}) == sum(counts) == 60
    else:
        rows = [part.read(np.arange(len(part))).reshape(len(part), -1) for part in (found.train, found.validation)]
        assert len(np.unique(np.concatenate(rows), axis=0)) == counts[0] + counts[1]


def test_what_is_held_out_is_always_the_same() -> None:
    images = StoredImages(noise(50, 1, 2, 2), np.arange(50), mirrored=False)
    train, held = hold_out(images)
    assert held.labels.tolist() == hold_out(images)[1].labels.tolist()
    assert sorted([*train.labels, *held.labels]) == list(range(50))
    assert len(held) == 5


def test_official_files_are_known_by_their_digest(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    digests = {"a": f"md5:{hashlib.md5(b'a').hexdigest()}", "b": f"sha1:{hashlib.sha1(b'b').hexdigest()}"}
    assert Download("x", "y", digests).note(tmp_path) is None
    (tmp_path / "b").write_bytes(b"c")
    assert Download("x", "y", digests).note(tmp_path) == "not the official files: b"
    (tmp_path / "c").write_bytes(b"c")
    note = Download("x", "y", {**digests, "c.gz": "md5:0"}).note(tmp_path)
    assert note == "not the official files: b; unpacked, their checksums are not known: c"


def test_the_subset_of_cifar10() -> None:
    images = read_images("cifar10", SUBSET)
    assert images.classes[:2] == ("airplane", "automobile")
    assert set(images.train.labels) == set(images.test.labels)
    assert images.note is not None
    assert sum(file.stat().st_size for file in SUBSET.rglob("*.bin")) < 1_000_000


# --- bad files -----------------------------------------------------------------------------------------------------


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def put(path: Path, place: int, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] = byte
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("layout", "harm", "message"),
    [
        (
            "cifar10",
            lambda d: (d / "data_batch_1.bin").unlink(),
            r"lacks data_batch_1.bin: get cifar-10-binary.tar",
        ),
        ("cifar10", lambda d: (d / "data_batch_3.bin").unlink(), r"lacks data_batch_3.bin: .* https://www.cs.toro"),
        ("cifar10", lambda d: cut(d / "test_batch.bin", 5000), r"5000 bytes, which is not a whole number of records"),
        ("cifar10", lambda d: cut(d / "test_batch.bin", 0), r"0 bytes, which is not a whole number of records"),
        ("cifar10", lambda d: put(d / "data_batch_2.bin", 3073, 10), r"_2.bin': record 1 has the label 10, but there"),
        ("cifar10", lambda d: (d / "batches.meta.txt").write_text("a\nb\n"), r"names 2 classes instead of 10"),
        ("cifar100", lambda d: put(d / "train.bin", 1, 100), r"record 0 has the label 100, but there are 100 classes"),
        ("cifar100", lambda d: (d / "test.bin").unlink(), r"lacks test.bin: get cifar-100-binary.tar.gz"),
        ("mnist", lambda d: (d / "train-images-idx3-ubyte").unlink(), r"lacks train-images-idx3-ubyte.gz: get"),
        ("mnist", lambda d: (d / "t10k-labels-idx1-ubyte").unlink(), r"lacks .* of MNIST at http://yann.lecun"),
        ("mnist", lambda d: cut(d / "train-images-idx3-ubyte", 300), r"is not a whole IDX file of bytes in 3"),
        ("mnist", lambda d: cut(d / "train-images-idx3-ubyte", 3), r"is not a whole IDX file of bytes in 3"),
        ("mnist", lambda d: put(d / "train-labels-idx1-ubyte", 3, 3), r"is not a whole IDX file of bytes in 1"),
        (
            "mnist",
            lambda d: put(d / "t10k-labels-idx1-ubyte", 8, 9),
            r"test image has the label 9, training .* up to 3",
        ),
        (
            "mnist",
            lambda d: (d / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(7, np.uint8))),
            r"holds 20 images, train-labels-idx1-ubyte.gz 7 labels",
        ),
        (
            "mnist",
            lambda d: (d / "t10k-images-idx3-ubyte").write_bytes(idx(noise(3, 6, 6))),
            r"training images of \(5, 5\) pixels, test images of \(6, 6\)",
        ),
        ("folder", lambda d: (d / "dog").rename(d / ".dog"), r"1 folders of classes, at least two are needed"),
        ("folder", lambda d: (d / "dog").rename(d / "train"), r"has train without the other part"),
        ("folder", lambda d: (d / "frog").mkdir(), r"frog' holds no image"),
    ],
)
def test_bad_files(tmp_path: Path, layout: str, harm: Callable[[Path], None], message: str) -> None:
    everything(layout, tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_images(layout, tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_gzip(tmp_path: Path) -> None:
    write_mnist(tmp_path, pack=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for data in (whole[:40], whole[:20] + b"\xff" + whole[21:], b"", idx(noise(20, 5, 5))):
        path.write_bytes(data)
        with pytest.raises(UserError, match="is not a whole"):
            read_images("mnist", tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown layout of images 'cifar'; did you mean 'cifar10'"):
        read_images("cifar", tmp_path)
    with pytest.raises(UserError, match="is no folder: give a folder with train/CLASS"):
        read_images("folder", tmp_path / "none")
    write_images(tmp_path / "few", 1, ("bird", "owl"))
    with pytest.raises(UserError, match="has too few images"):
        read_images("folder", tmp_path / "few")
    write_images(tmp_path / "train", 5)
    write_images(tmp_path / "val", 5, ("cat", "dogs"))
    with pytest.raises(UserError, match="dogs' is no class of the training images; did you mean 'dog'"):
        read_images("folder", tmp_path)
    (tmp_path / "val" / "dogs").rename(tmp_path / "val" / "dog")
    cut(tmp_path / "val" / "dog" / "0.png", 40)
    images = read_images("folder", tmp_path)
    with pytest.raises(UserError, match=r"cannot decode .*0.png': it is damaged or no image"):
        images.test.read(np.arange(len(images.test)))
    for damaged in (b"no image", b""):
        (tmp_path / "val" / "dog" / "0.png").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot decode .*0.png': it is damaged or no image"):
            read_images("folder", tmp_path)
    (tmp_path / "val" / "dog" / "0.png").rename(tmp_path / "val" / "dog" / "0\udcff.png")
    with pytest.raises(UserError, match="the name is not UTF-8"):
        read_images("folder", tmp_path)
    with pytest.raises(UserError, match="one image cannot be split"):
        hold_out(images.test.subset(np.array([0])))


# --- augmentation --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), mirrored=st.booleans(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_crop_is_a_window_of_the_padded_image(seed: int, mirrored: bool, height: int, width: int) -> None:
    images = StoredImages(noise(6, 2, height, width, seed=seed), np.arange(6), mirrored=mirrored)
    chosen = np.array([3, 0, 3])
    crops = images.augmented(chosen, np.random.default_rng(seed))
    assert crops.shape == (3, 2, height, width)
    for index, crop in zip(chosen, crops, strict=True):
        padded = np.pad(images.pixels[index], ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        windows = [
            padded[:, top : top + height, left : left + width]
            for top in range(2 * PADDING + 1)
            for left in range(2 * PADDING + 1)
        ]
        flips = [window[:, :, ::-1] for window in windows] if mirrored else []
        assert any(np.array_equal(crop, window) for window in windows + flips)


def test_all_windows_and_both_sides_occur() -> None:
    images = StoredImages(np.arange(1, 10, dtype=np.uint8).reshape(1, 1, 3, 3), np.zeros(1, np.int64), mirrored=True)
    crops = images.augmented(np.zeros(4000, np.int64), np.random.default_rng(0))
    # a window shows at most the whole image: 9 x 9 places, of which those more than 2 off are black
    middles = crops[:, 0, 1, 1]
    counts = np.bincount(middles, minlength=10)
    assert counts.min() > 4000 / 81 / 2
    assert 0.4 < (crops[middles == 5][:, 0, 1, 0] == 6).mean() < 0.6


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(1, 40), width=st.integers(1, 40))
def test_random_crops_of_files_are_parts_of_the_image(seed: int, height: int, width: int) -> None:
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(height)[:, None]
    ramp[..., 1] = np.arange(width)
    crop = random_crop(ramp, 6, np.random.default_rng(seed)).astype(int)
    assert crop.shape == (6, 6, 3)
    down, across = np.diff(crop[..., 0], axis=0), np.diff(crop[..., 1], axis=1)
    assert (down >= 0).all()
    assert (across >= 0).all() or (across <= 0).all()
    assert np.array_equal(crop, random_crop(ramp, 6, np.random.default_rng(seed)).astype(int))


def test_the_central_square() -> None:
    # 16 x 20: the square's side is 16 * 7 / 8 = 14, from row 1 and column 3
    image = noise(16, 20, 3)
    assert np.array_equal(central_square(image, 14), image[1:15, 3:17])
    assert central_square(np.full((3, 50, 3), 7, np.uint8), 8).tolist() == np.full((8, 8, 3), 7).tolist()


# --- batches -------------------------------------------------------------------------------------------------------

PLAIN = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def listed(batches: "TrainingBatches", epoch: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return [(batch.images, batch.labels) for batch in batches.epoch(epoch, start)]


def equal(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("layout", ["cifar10", "folder"])
def test_an_epoch_goes_on_anywhere_with_the_same_bits(tmp_path: Path, layout: str) -> None:
    images = everything(layout, tmp_path).train
    batches = TrainingBatches(images, 4, 7, PLAIN)
    whole = listed(batches, 3)
    assert len(whole) == len(batches) == len(images) // 4
    for start in (0, 1, len(whole) - 1, len(whole)):
        assert equal(listed(TrainingBatches(images, 4, 7, PLAIN), 3, start), whole[start:])
    assert not equal(listed(batches, 4), whole)
    assert not equal(listed(TrainingBatches(images, 4, 8, PLAIN), 3), whole)
    for _ in batches.epoch(3):
        break  # what was made ahead is thrown away
    assert equal(listed(batches, 3), whole)


def test_an_epoch_shows_every_image_once() -> None:
    images = StoredImages(noise(10, 3, 4, 4), np.arange(10), mirrored=True)
    assert sorted(label for _, labels in listed(TrainingBatches(images, 5, 0, PLAIN), 0) for label in labels) == [
        *range(10)
    ]
    # ten do not fill four batches of three: another one is left out in each epoch
    shown = [
        {int(x) for _, labels in listed(TrainingBatches(images, 3, 0, PLAIN), e) for x in labels} for e in range(8)
    ]
    assert {len(labels) for labels in shown} == {9}
    assert len({frozenset(labels) for labels in shown}) > 1
    assert [len(labels) for _, labels in listed(TrainingBatches(images, 99, 0, PLAIN), 0)] == [10]


def test_images_in_order_are_whole() -> None:
    images = StoredImages(noise(7, 3, 4, 4), np.arange(7), mirrored=True)
    found = list(in_order(images, 3, PLAIN))
    assert [batch.labels.tolist() for batch in found] == [[0, 1, 2], [3, 4, 5], [6]]
    assert (
        torch.cat([batch.images for batch in found]).mul(255).round().byte().numpy().tolist() == images.pixels.tolist()
    )


@pytest.mark.parametrize("count", [3, 2500])
def test_normalised_images_have_mean_0_and_deviation_1(count: int) -> None:
    pixels = noise(count, 3, 4, 4)
    pixels[:, 1] //= 3
    images = StoredImages(pixels, np.zeros(count, np.int64), mirrored=False)
    normalization = Normalization.measured(images)
    expected = (pixels.astype(np.float64) / 255).transpose(1, 0, 2, 3).reshape(3, -1)
    assert normalization.mean == pytest.approx(expected.mean(1))
    assert normalization.std == pytest.approx(expected.std(1))
    images_of_all = normalization.apply(torch.from_numpy(pixels))
    torch.testing.assert_close(images_of_all.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images_of_all.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_black_images_can_be_normalised() -> None:
    images = StoredImages(np.zeros((2, 1, 3, 3), np.uint8), np.zeros(2, np.int64), mirrored=False)
    assert Normalization.measured(images).apply(torch.zeros(1, 1, 3, 3, dtype=torch.uint8)).eq(0).all()
