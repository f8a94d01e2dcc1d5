"""Image classifiers: their files, their training, the whole way to T = 1 on real images, and every mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from test_images import idx, write_images

from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.agent import Description, memory_format
from snnrl.agents.classifier.config import ImageRecipe, Reduction, Training
from snnrl.agents.classifier.evaluate import evaluate
from snnrl.agents.classifier.stages import ImageJob, failure
from snnrl.agents.classifier.training import Epochs, share_of_rate
from snnrl.cli import main
from snnrl.config import read_recipe
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.networks import calibrating, neurons_of
from snnrl.neurons import compiled, passes
from snnrl.pipeline import STOP, StageFolder
from snnrl.runs import RunFolder

DATA = Path(__file__).parent / "data" / "cifar10"
LITTLE = ["--network.hidden", "32", "--ann.epochs", "1", "--reduction.epochs", "1", "--schedule", "2,1"]


@pytest.fixture(scope="module")
def images() -> ImageSet:
    whole = read_images("cifar10", DATA)
    few = {part: getattr(whole, part).subset(np.arange(24)) for part in ("train", "validation", "test")}
    return ImageSet(whole.classes, **few, note=None)


def little(T: int | None = None, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "kind": "vgg6",
        "image_shape": (3, 32, 32),
        "labels": tuple("0123456789"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.2, 0.2, 0.2),
        "images": "cifar10",
        "hidden": (16,),
        "batch_norm": T is None,
        "T": T,
    }
    return Classifier(Description(**given | changes), "cpu")


@pytest.mark.parametrize("T", [None, 2])
def test_a_file_is_the_classifier(T: int | None, tmp_path: Path) -> None:
    saved = little(T)
    saved.save(tmp_path / "net.zip")
    loaded = Classifier.load(tmp_path / "net.zip", "cpu")
    assert loaded.description == saved.description
    values = torch.rand(3, 3, 32, 32)
    assert torch.equal(loaded.network(values), saved.network(values))


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    saved = little()
    saved.save(tmp_path / "net.zip")
    saved.description = saved.description.model_copy(update={"labels": tuple("01234")})
    saved.save(tmp_path / "other.zip")
    with pytest.raises(UserError, match=r"tensor 'decision\.head\.weight' has shape \[10, 16\], not \[5, 16\]"):
        Classifier.load(tmp_path / "other.zip")
    agent = Path("agents/zoo/cartpole-state/T1.zip")
    with pytest.raises(UserError, match="holds no classifier"):
        Classifier.load(Path(__file__).parent.parent / agent)


def test_evaluation_by_hand(images: ImageSet) -> None:
    classifier = little(2)
    found = evaluate(classifier, images.test)
    with torch.no_grad():
        pixels = torch.from_numpy(images.test.read(np.arange(24)))
        named = classifier.network(classifier.normalization.apply(pixels)).argmax(1).numpy()
    assert list(found.wrong) == np.flatnonzero(named != images.test.labels).tolist()
    assert found.accuracy == 1 - len(found.wrong) / 24
    assert list(found.activity.spike_rate) == ["conv1", "conv2", "conv3", "fc1"]
    assert found.layers[0].macs == 3 * 64 * 9 * 32 * 32


def trained(
    images: ImageSet, folder: Path, kind: str, *, stop_at: int | None = None, teacher: Classifier | None = None
) -> dict[str, torch.Tensor]:
    """Train a little classifier; with ``stop_at`` ask it to stop after so many reports, and return nothing."""
    settings = SETTINGS[kind]
    spiking = {} if kind == "ordinary" else {"T": 2, "neuron": kind}
    classifier = little(**spiking, dropout=0.2)
    reports = 0

    def report(done: int, text: str) -> None:
        nonlocal reports
        reports += 1
        if reports == stop_at:
            STOP.set()

    try:
        Epochs(classifier, images, settings, StageFolder(folder), report, Logger(None, []), 7, "fp32", teacher).run()
    finally:
        STOP.clear()
    return {name: value.clone() for name, value in classifier.body.state_dict().items()}


def test_the_first_layer_of_a_deep_network_learns(images: ImageSet, tmp_path: Path) -> None:
    classifier = little(1, kind="vgg16", width=0.125)
    classifier.network.eval()
    with torch.no_grad(), calibrating(classifier.network, 90):
        classifier.network(classifier.normalization.apply(torch.from_numpy(images.train.read(np.arange(24)))))
    first = classifier.body.get_parameter("features.conv1.weights.weight")
    before = first.detach().clone()
    settings = Reduction(epochs=1, batch_size=24, learning_rate=1e-3)
    Epochs(classifier, images, settings, StageFolder(tmp_path), lambda *_: None, Logger(None, []), 0, "fp32").run()
    moved, steepest = (first.detach() - before).abs(), first.grad.abs().max()
    assert steepest < 1e-8  # torch adds that much to its root
    # Adam's first step has the size of the learning rate, whatever the size of the gradient
    assert float(moved.median()) == pytest.approx(1e-3, rel=0.01)


SETTINGS = {
    "ordinary": Training(epochs=3, batch_size=8, schedule="one-cycle", checkpoint_every=2),
    "lif": Reduction(epochs=2, batch_size=8, checkpoint_every=2, distillation=0.5, spike_penalty=0.1),
    "hoyer": Reduction(epochs=2, batch_size=8, checkpoint_every=2, hoyer_penalty=1e-6),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("stop_at", [1, 2])
def test_stopped_and_resumed_it_is_the_same(kind: str, stop_at: int, images: ImageSet, tmp_path: Path) -> None:
    teacher = little() if kind == "lif" else None
    whole = trained(images, tmp_path / "whole", kind, teacher=teacher)
    with pytest.raises(KeyboardInterrupt):
        trained(images, tmp_path / "halves", kind, stop_at=stop_at, teacher=teacher)
    halves = trained(images, tmp_path / "halves", kind, teacher=teacher)
    assert whole.keys() == halves.keys()
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())
    assert not torch.equal(
        whole["features.conv1.weights.weight"], little().body.state_dict()["features.conv1.weights.weight"]
    )


def test_scans_are_compiled_if_asked_for(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained(images, tmp_path / "plain", "lif")
    calls: list[int] = []
    monkeypatch.setattr(compiled, "scan", lambda *given: calls.append(1) or passes.scan(*given))
    monkeypatch.setattr(compiled, "gradients", lambda *given: calls.append(-1) or passes.gradients(*given))
    monkeypatch.setitem(SETTINGS, "lif", SETTINGS["lif"].model_copy(update={"compile": True}))
    same = trained(images, tmp_path / "compiled", "lif")
    assert all(torch.equal(value, same[name]) for name, value in plain.items())
    # 2 epochs of 3 batches, 4 layers, forward and backward
    assert (len(calls), sum(calls)) == (2 * 3 * 4 * 2, 0)


@pytest.mark.parametrize(
    ("schedule", "done", "rate"),
    [
        ("steps", 0.0, 1.0),
        ("steps", 0.5, 0.2),
        ("steps", 0.95, 0.2**3),
        ("one-cycle", 0.0, 1 / 25),
        ("one-cycle", 0.3, 1.0),
        ("one-cycle", 0.65, 0.5),
    ],
)
def test_the_learning_rate(schedule: Any, done: float, rate: float) -> None:
    settings = Training(epochs=20, batch_size=24, schedule=schedule, learning_rate=2.0)
    assert share_of_rate(settings, round(20 * done), 0.0) == pytest.approx(rate)


def test_thresholds_are_kept_or_lowered(images: ImageSet, tmp_path: Path) -> None:
    found = {}
    for thresholds in ("kept", "lowered"):
        recipe = read_recipe("cifar10-vgg6", ImageRecipe, {"reduction": {"thresholds": thresholds}, "device": "cpu"})
        job = ImageJob(recipe, images, RunFolder(tmp_path), lambda *_: lambda *_: None, lambda _: None)
        classifier = little(5)
        with torch.no_grad():
            for neuron in neurons_of(classifier.network).values():
                neuron.threshold.fill_(50.0)
        job.reduce(classifier, 1)
        assert classifier.T == 1
        found[thresholds] = [neuron.spike_value for neuron in neurons_of(classifier.network).values()]
    assert set(found["kept"]) == {50.0}
    assert max(found["lowered"]) < 50.0


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_whole_way_on_real_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    words = ["train", "cifar10-vgg6", "--data", str(DATA), *LITTLE, "--run", str(folder), "--json"]
    code, out, err = run(capsys, *words)
    assert code in (0, 3), err
    summary = json.loads(out.splitlines()[-1])
    first, last = summary["stages"][0], summary["stages"][-1]
    assert (first["T"], last["T"]) == (None, 1)
    assert {"accuracy", "images", "wrong", "spike_rate", "energy_ratio", "gate_accuracy"} <= last.keys()
    assert last["before"]["spike_rate"].keys() == last["spike_rate"].keys()
    for stage in summary["stages"]:
        again = evaluate(Classifier.load(folder / stage["agent"]), read_images("cifar10", DATA).test)
        assert (again.accuracy, list(again.wrong)) == (stage["accuracy"], stage["wrong"])
    assert "not the official files" in summary["images"]["note"]


def little_run(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> list[dict[str, Any]]:
    given = ["--data", str(DATA), *LITTLE, "--network.width", "0.1", "--run", str(folder), "--json"]
    code, out, err = run(capsys, "train", "cifar10-vgg6", *given, *words)
    assert code in (0, 3), err
    stages: list[dict[str, Any]] = json.loads(out.splitlines()[-1])["stages"]
    return stages


def test_stages_on_the_way_may_be_shorter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = little_run(capsys, tmp_path / "run", "--reduction.epochs", "2", "--reduction.passing", "1")
    assert [len(stage["curve"]) for stage in stages] == [1, 1, 2]
    assert [len(stage["training_curve"]) for stage in stages] == [1, 1, 2]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning(scope: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruning = ["--pruning.share", "0.9", "--pruning.scope", scope]
    stages = little_run(capsys, tmp_path / "whole", *pruning)
    assert [stage["name"] for stage in stages] == ["ann", "T2", "T1", "pruned"]
    before, after = (Classifier.load(tmp_path / "whole" / f"{name}.zip") for name in ("T1", "pruned"))
    shares = zeros(after)
    assert np.average([share for share, _ in shares], weights=[size for _, size in shares]) == pytest.approx(0.9, 1e-3)
    assert (max(share for share, _ in shares) - min(share for share, _ in shares) < 0.02) == (scope == "layer")
    assert not any(share for share, _ in zeros(before))
    old, new = (found.body.state_dict()["features.conv2.weights.weight"] for found in (before, after))
    assert (old[new != 0] != new[new != 0]).double().mean() > 0.5
    assert stages[-1]["energy_ratio"] > stages[-2]["energy_ratio"]
    pruning[1] = "0.97"
    begun = little_run(capsys, tmp_path / "begun", "--from", str(tmp_path / "whole" / "T1.zip"), *pruning)
    assert [stage["name"] for stage in begun] == ["T1", "pruned"]
    assert (begun[-1]["failed"] == "") == all(begun[-1]["spike_rate"].values())
    rates = begun[-1]["before"]["spike_rate"]
    assert min(rates[layer] for layer in ("conv1", "conv2", "conv3")) > 0.02


def test_a_spiking_start_has_the_recipes_dropout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little_run(capsys, tmp_path / "first", "--schedule", "2")
    words = ["--from", str(tmp_path / "first" / "T2.zip"), "--schedule", "1", "--reduction.dropout"]
    for share in (0.0, 0.6):
        little_run(capsys, tmp_path / str(share), *words, str(share))
    first, second = (Classifier.load(tmp_path / share / "T1.zip") for share in ("0.0", "0.6"))
    assert (first.description.dropout, second.description.dropout) == (0.0, 0.6)
    weights = "features.conv2.weights.weight"
    assert not torch.equal(first.body.state_dict()[weights], second.body.state_dict()[weights])


def zeros(classifier: Classifier) -> list[tuple[float, int]]:
    """Return the share of zeros, and the number, of each layer's weights."""
    weights = [value for name, value in classifier.body.state_dict().items() if name.endswith("weight")]
    return [(float((value == 0).double().mean()), value.numel()) for value in weights]


def test_thresholds_of_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little_run(capsys, tmp_path / "first")
    given = Classifier.load(tmp_path / "first" / "T1.zip")
    with torch.no_grad():
        for number, neuron in enumerate(neurons_of(given.network).values()):
            neuron.threshold.fill_(7.0 + number)
    given.save(tmp_path / "given.zip")
    words = ["--from", str(tmp_path / "first" / "ann.zip"), "--thresholds-of", str(tmp_path / "given.zip")]
    frozen = ["--schedule", "1", "--reduction.learning-rate", "1e-9"]
    little_run(capsys, tmp_path / "second", *words, *frozen)
    found = neurons_of(Classifier.load(tmp_path / "second" / "T1.zip").network).values()
    assert [neuron.spike_value for neuron in found] == pytest.approx([7.0, 8.0, 9.0, 10.0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--from net --network.kind vgg16", "has network.kind vgg6, not vgg16: give --network.kind vgg6"),
        ("--from net --network.width 0.2", "has network.width 0.1, not 0.2: give --network.width 0.1"),
        ("--from net --thresholds-of net", "--thresholds-of is an ordinary network, which has no thresholds"),
        ("--from spiking --thresholds-of spiking", "--thresholds-of is for conversions"),
        ("--from scratch --thresholds-of spiking", "--thresholds-of is for conversions"),
        ("--from net --neuron if --thresholds-of spiking", "is a vgg6 of lif neurons, the conversion a vgg6 of if"),
        ("--ann.batch-size 1", "batch-norm needs two images at a time"),
    ],
)
def test_beginnings_that_do_not_fit(
    words: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = read_images("cifar10", DATA)
    known = {"labels": images.classes, "image_shape": images.train.shape, "width": 0.1, "hidden": (32,)}
    little(**known).save(tmp_path / "net")
    little(T=2, **known).save(tmp_path / "spiking")
    given = ["--data", str(DATA), *LITTLE, "--network.width", "0.1", "--schedule", "1", "--run", "run"]
    code, _, err = run(capsys, "train", "cifar10-vgg6", *given, *words.split())
    assert code == 2
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_narrow_resnet_is_trained() -> None:
    """Its shortcut of 1x1 with a stride and six channels must not be channels_last: torch's backward would crash."""
    narrow, wide = (
        little(kind="resnet20", hidden=None, width=width, image_shape=(3, 16, 16)).network for width in (0.1, 0.125)
    )
    assert memory_format(narrow) is torch.contiguous_format
    assert memory_format(wide) is torch.channels_last
    narrow.train()(torch.randn(48, 3, 16, 16)).sum().backward()


def test_a_binary_network_from_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--from", "scratch", "--schedule", "1", "--neuron", "binary"]
    (stage,) = little_run(capsys, tmp_path / "run", *words)
    assert stage["T"] == 1
    assert all(0 < rate < 1 for rate in stage["spike_rate"].values())
    assert Classifier.load(tmp_path / "run" / "T1.zip").description.batch_norm


def test_a_teacher_of_a_network_from_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little_run(capsys, tmp_path / "first")
    words = ["--from", "scratch", "--schedule", "1", "--neuron", "hoyer", "--reduction.distillation", "0.5"]
    stages = little_run(capsys, tmp_path / "run", *words, "--teacher", str(tmp_path / "first" / "ann.zip"))
    assert [stage["T"] for stage in stages] == [None, 1]
    taught = Classifier.load(tmp_path / "run" / "T1.zip")
    assert taught.description.batch_norm
    assert taught.description.neuron == "hoyer"


def test_pooling_before_batch_norm_from_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # from scratch, as they must
    words = ["--schedule", "1", "--neuron", "hoyer", "--network.kind", "hoyer-vgg6", "--ann.dropout", "0.2"]
    (stage,) = little_run(capsys, tmp_path / "run", *words)
    assert all(0 < rate < 1 for rate in stage["spike_rate"].values())


@pytest.mark.parametrize(
    ("rates", "learnt", "why"),
    [
        ({"conv1": 0.1, "fc1": 0.2}, 0.13, ""),
        ({"conv1": 0.1, "fc1": 0.2}, 0.11, "training accuracy 11.0%"),
        ({"conv1": 0.1, "conv2": 0.0, "fc1": 0.0}, 0.13, "no spikes in conv2, fc1"),
    ],
)
def test_failure(rates: dict[str, float], learnt: float, why: str) -> None:
    assert failure({"spike_rate": rates, "training_curve": [0.5, learnt]}, classes=10) == why


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "cifar10-vgg6 learns from images: give --data DIR"),
        ("--data nowhere", "'nowhere' lacks data_batch_1.bin"),
        (f"--data {DATA} --from nothing.zip", "no such file"),
        (f"--data {DATA} --ann.epoch 3", "did you mean --ann.epochs"),
        (f"--data {DATA} --network.kind vgg5", "'vgg5' is none of"),
        (f"--data {DATA} --teacher ann.zip", "--teacher is for --from scratch"),
    ],
)
def test_mistakes(words: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "train", "cifar10-vgg6", *words.split(), "--run", str(tmp_path / "run"))
    assert code == 2
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def write_digits(folder: Path, side: int = 28, classes: int = 3) -> None:
    folder.mkdir()
    for part in "train", "t10k":
        pixels = np.random.default_rng(0).integers(0, 256, (12, side, side), np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(12) % classes).astype(np.uint8)))


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({"labels": ("0", "1"), "image_shape": (1, 28, 28)}, "knows 2 classes, mnist has 3"),
        ({"labels": ("0", "1", "2"), "image_shape": (1, 32, 32)}, "sees images of shape (1, 32, 32), mnist has (1, 28"),
    ],
)
def test_a_classifier_of_other_images(
    known: dict[str, Any], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(tmp_path / "digits")
    little(mean=(0.5,), std=(0.2,), **known).save(tmp_path / "net.zip")
    words = ["--data", str(tmp_path / "digits"), "--from", str(tmp_path / "net.zip"), "--run", str(tmp_path / "run")]
    code, _, err = run(capsys, "train", "mnist", *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert line in err
    assert not (tmp_path / "run").exists()


def test_a_classifier_of_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 10, side=32)
    little(labels=("cat", "frog")).save(tmp_path / "net.zip")
    words = ["--data", str(tmp_path / "images"), "--from", str(tmp_path / "net.zip"), "--run", str(tmp_path / "run")]
    code, _, err = run(capsys, "train", "imagenet-vgg16", "--size", "32", *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "knows 'frog' where folder has 'dog'" in err
    assert not (tmp_path / "run").exists()


def test_images_that_a_network_cannot_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_digits(tmp_path / "digits", side=3)
    code, _, err = run(capsys, "train", "mnist", "--data", str(tmp_path / "digits"), "--run", str(tmp_path / "run"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "images of shape (1, 3, 3) are too small for the network's kernels" in err
    assert not (tmp_path / "run").exists()


def test_other_images_are_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits, folder = tmp_path / "digits", tmp_path / "run"
    write_digits(digits)
    words = ["train", "mnist", "--data", str(digits), *LITTLE, "--network.width", "0.1", "--run", str(folder)]
    assert run(capsys, *words)[0] in (0, 3)
    labels = digits / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1] + b"\0")
    code, _, err = run(capsys, *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "holds a run with another configuration (data: " in err
    labels.write_bytes(whole)
    assert run(capsys, *words)[0] in (0, 3)


def test_a_damaged_image_found_while_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images", 10, side=32)
    files = sorted((tmp_path / "images").rglob("*.png"))
    whole = [file.read_bytes() for file in files]
    words = ["train", "imagenet-vgg16", "--data", str(tmp_path / "images"), "--size", "8", "--network.kind", "vgg6"]
    words += [*LITTLE, "--network.width", "0.1", "--run", str(tmp_path / "run"), "--device", "cpu"]
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data[:60] + bytes(len(data) - 60))
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "cannot decode" in err.splitlines()[-1]
    assert ".png': it is damaged or no image; restore or delete it" in err
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data)
    assert run(capsys, *words)[0] in (0, 3)
