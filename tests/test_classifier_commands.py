"""``snnrl report | eval | energy | play`` of a classifier's run, and every mistake."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.agent import Description
from snnrl.agents.classifier.config import ImageRecipe
from snnrl.agents.classifier.conversion import bounded
from snnrl.agents.classifier.evaluate import at_once, operations
from snnrl.arguments import parse
from snnrl.cli import main
from snnrl.commands.recipes import command_line
from snnrl.commands.train_images import TrainImagesOptions
from snnrl.config import read_recipe
from snnrl.energy import add_batches, count_operations, read_costs, tally
from snnrl.envs.images import Normalization, read_images
from snnrl.networks import SpikingNetwork, encode_by_rate, fill_slots, mlp

pytestmark = pytest.mark.reports
DATA = Path(__file__).parent / "data" / "cifar10"
LITTLE = [
    *("--network.width", "0.125", "--network.hidden", "16", "--ann.epochs", "2", "--reduction.epochs", "2"),
    *("--schedule", "2,1", "--device", "cpu"),
]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``a`` (seed 0) and ``b`` (seed 1), which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", "0"), ("b", "1")):
        words = ["train", "cifar10-vgg6", "--data", str(DATA), *LITTLE, "--seed", seed, "--run", str(folder / name)]
        assert main(words) in (0, 3)
    return folder


@pytest.fixture
def call(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "a", "run")

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run


def figures(call: Call, *words: object) -> dict[str, Any]:
    code, out, err = call(*words, "--data", DATA, "--device", "cpu", "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def stage(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("run/stages", f"{name}.json").read_text())
    return found


def table(page: str, name: str) -> list[dict[str, str]]:
    link = page.partition(f'download="{name}.csv"')[0].rpartition('href="')[2].rpartition('"')[0]
    return list(csv.DictReader(unquote(link.partition(",")[2]).splitlines()))


def test_training_leaves_a_report(call: Call) -> None:
    page = Path("run/report.html").read_text()
    for section in ("Result", "Learning", "Spikes", "Energy", "Agreement", "Observations", "What was run"):
        assert f"<h2>{section}</h2>" in page
    assert "Images: not the official files" in page
    rows = table(page, "stages")
    assert [row["stage"] for row in rows] == ["ann", "T2", "T1"]
    assert [float(row["accuracy"]) for row in rows] == [stage(row["stage"])["accuracy"] for row in rows]
    assert "begun with" not in rows[0]
    assert [row["stage"] for row in table(page, "spike-rate-at-hand-over")][:1] == ["T2"]
    assert table(page, "learning-T1")[-1]["batches"] == table(page, "loss-T1")[-1]["batches"] == "2.0"
    truth = next(row for row in table(page, "agreement") if row[""] == "truth")
    assert float(truth["T1"]) == pytest.approx(stage("T1")["accuracy"])
    assert len(table(page, "confusion")) == 10
    assert float(table(page, "what-if")[0]["T1"]) == pytest.approx(stage("T1")["energy_ratio"])


def test_a_report_without_images_and_of_several_seeds(call: Call, place: Path) -> None:
    assert call("report", "run", "--out", "page.html")[0] == 0
    page = Path("page.html").read_text()
    assert "<h2>Observations</h2>" not in page
    both = next(row for row in table(page, "equally-right") if row[""] == "ann")
    wrong = {name: set(stage(name)["wrong"]) for name in ("ann", "T1")}
    assert float(both["T1"]) == 1 - len(wrong["ann"] ^ wrong["T1"]) / 64
    assert call("report", "run", "--data", DATA)[0] == 0
    assert "<h2>Observations</h2>" in Path("run/report.html").read_text()
    assert call("report", "run", place / "b", "--out", "both.html")[0] == 0
    means = table(Path("both.html").read_text(), "accuracy-over-seeds")
    other = json.loads((place / "b/stages/T1.json").read_text())["accuracy"]
    assert float(means[-1]["mean"]) == pytest.approx((stage("T1")["accuracy"] + other) / 2)


def test_a_report_on_an_unfinished_run(call: Call) -> None:
    Path("run/summary.json").unlink()
    Path("run/stages/T1.json").unlink()
    assert call("report", "run")[0] == 0
    assert "ordinary → T = 2<" in Path("run/report.html").read_text()


def test_the_command_makes_the_same_recipe() -> None:
    defaults = TrainImagesOptions(**read_recipe("cifar10-vgg6", ImageRecipe).model_dump())
    made = parse(TrainImagesOptions, LITTLE, "train", defaults)
    recipe = ImageRecipe(**{field: getattr(made, field) for field in ImageRecipe.model_fields})
    stored = recipe.model_dump(mode="json") | {"from": "ann", "seed": 5, "data": "abc"}
    words = command_line(stored, Path("runs/x")).split()
    assert words[:7] == ["snnrl", "train", "cifar10-vgg6", "--data", "DIR", "--seed", "5"]
    again = parse(TrainImagesOptions, words[3:], "train", defaults)
    expected = recipe.model_dump() | {"seed": 5, "device": "auto"}
    assert {field: again.model_dump()[field] for field in expected} == expected


def test_evaluation_is_that_of_the_run(call: Call) -> None:
    found = figures(call, "eval", "run", "--T", "1,2,3")
    assert [(one["T"], one["agent"]) for one in found["results"]] == [(1, "T1.zip"), (2, "T2.zip"), (3, "T2.zip")]
    for one, name in zip(found["results"], ("T1", "T2"), strict=False):
        assert {key: one[key] for key in ("accuracy", "wrong")} == {
            key: stage(name)[key] for key in ("accuracy", "wrong")
        }
    ordinary = figures(call, "eval", "run/ann.zip")
    assert (ordinary["T"], ordinary["accuracy"], ordinary["energy_ratio"]) == (None, stage("ann")["accuracy"], 1.0)
    high, low = (
        figures(call, "eval", "run/ann.zip", "--T", "2", "--percentile", percentile) for percentile in ("99", "80")
    )
    assert high["agent"] == "ann.zip, converted at the 99th percentile"
    assert high["spike_rate"]["conv1"] < low["spike_rate"]["conv1"]


def test_poisson_spikes_are_drawn_by_the_seed(call: Call) -> None:
    words = ("eval", "run", "--T", "3", "--encoding", "poisson")
    first, again, other = (figures(call, *words, *seed) for seed in ((), (), ("--seed", "1")))
    assert first == again
    assert first["spike_rate"] != other["spike_rate"]


def test_energy_by_layer(call: Call) -> None:
    found = figures(call, "energy", "run", "--csv", "layers.csv")
    assert [layer["layer"] for layer in found["layers"]] == ["conv1", "conv2", "conv3", "fc1", "head"]
    assert found["energy_ratio"] == pytest.approx(stage("T1")["energy_ratio"])
    assert all(found["what_if"].values())
    assert found["images"] == 64
    with Path("layers.csv").open(newline="") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [layer["layer"] for layer in found["layers"]]
    shutil.copy("run/T1.zip", "alone.zip")
    assert None in figures(call, "energy", "alone.zip")["what_if"].values()
    spikes = figures(call, "energy", "run", "--T", "3", "--encoding", "poisson")["layers"][0]
    assert (spikes["input"], spikes["multiply_accumulate"], spikes["latency_steps"]) == ("spikes", 0, 3)
    assert spikes["accumulate"] == pytest.approx(spikes["input_rate"] * spikes["ordinary_multiply_accumulate"])


def test_rate_coding_by_hand() -> None:
    body = mlp(2, (3,), 2)
    fill_slots(body, "lif", 4000, encoder=True)
    network = SpikingNetwork(body, 4000, ["head"])
    seen: list[torch.Tensor] = []
    before = next(body.parameters()).detach().clone()
    encode_by_rate(network, 2.0, seed=0)
    body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        layers = count_operations(network, torch.tensor([[1.0, -0.5]]), 1)
    (spikes,) = seen
    assert spikes.shape == (4000, 2)
    assert set(spikes.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert spikes.mean(0).tolist() == pytest.approx([0.5, -0.25], abs=0.03)
    assert torch.equal(next(body.parameters()), 2 * before)
    first = layers[0]
    assert (first.spiking, first.passes, first.events) == (True, 4000, int(spikes.abs().sum()))
    counted = tally(first, read_costs("arithmetic"))
    assert (counted["multiply_accumulate"], counted["accumulate"]) == (0, 3 * first.events)


def test_the_largest_value() -> None:
    normalization = Normalization((0.25, 0.6), (0.5, 0.1))
    assert normalization.largest == pytest.approx(6.0)
    extremes = normalization.apply(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 2, 1, 2))
    assert float(extremes.abs().max()) == pytest.approx(normalization.largest)


def little(T: int, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    given: dict[str, Any] = {"kind": "vgg6", "image_shape": (3, 32, 32), "labels": tuple("0123456789")}
    given |= {"mean": (0.5,) * 3, "std": (0.2,) * 3, "images": "cifar10", "width": 0.125, "hidden": (16,), "T": T}
    return Classifier(Description(**given | {"batch_norm": False} | changes), "cpu")


def test_memory_is_bounded_and_counts_add_up() -> None:
    classifier = little(100)
    assert (at_once(classifier), bounded(classifier, 100)) == (12, 25)
    assert (at_once(little(1)), at_once(little(5)), bounded(classifier, 5)) == (250, 250, 512)
    images = read_images("cifar10", DATA).test
    classifier = little(2)
    values = classifier.normalization.apply(torch.from_numpy(images.read(np.arange(64))))
    parts = [count_operations(classifier.network, part, 32) for part in values.split(32)]
    whole = operations(classifier, images)
    assert [layer.spikes for layer in add_batches(parts)] == [layer.spikes for layer in whole]
    assert [layer.active for layer in add_batches(parts)] == [layer.active for layer in whole]
    assert {layer.decisions for layer in whole} == {64}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("eval run", "run names images: give --data DIR, the folder that holds cifar10"),
        ("energy run", "run names images: give --data DIR"),
        ("eval run --data nowhere", "'nowhere' lacks data_batch_1.bin"),
        ("eval run --data DATA --episodes 3", "--episodes is for agents that play, run is an image classifier"),
        ("eval cartpole --data DATA", "--data is for image classifiers, and cartpole is none"),
        ("energy cartpole --encoding poisson", "--encoding is for image classifiers, and cartpole is none"),
        ("eval run --data DATA --sed 1", "did you mean --seed?"),
        ("eval run --data DATA --percentile 99", "a percentile sets the thresholds of an ordinary agent"),
        ("eval run/ann.zip --data DATA --encoding poisson", "an ordinary network has no timesteps"),
        ("energy run/ann.zip --data DATA", "run/ann.zip is an ordinary network: give --T to convert it"),
        ("eval five.zip --data DATA", "five.zip knows 5 classes, "),
        ("eval grey.zip --data DATA", "grey.zip sees images of shape (1, 28, 28), "),
        ("eval run --data cut", "is cut off or of another layout"),
        ("play run", "run/T1.zip is an image classifier, which plays nothing: snnrl eval run/T1.zip --data DIR tests"),
        ("robustness run", "run/T1.zip is an image classifier, which plays nothing"),
        ("convert run/ann.zip", "run/ann.zip is an image classifier, which plays nothing"),
        ("train cartpole-state --from run/ann.zip --run new", "run/ann.zip is an image classifier"),
        ("report agent --data DATA", "--data is for runs of image classifiers"),
        ("report run", "run/stages/T1.json is damaged"),
    ],
)
def test_mistakes(words: str, line: str, call: Call) -> None:
    little(1, labels=tuple("01234")).save(Path("five.zip"))
    little(1, image_shape=(1, 28, 28), mean=(0.5,), std=(0.2,)).save(Path("grey.zip"))
    shutil.copytree(DATA, "cut")
    cut = next(Path("cut").rglob("test_batch.bin"))
    cut.write_bytes(cut.read_bytes()[:-1])
    Path("agent").mkdir()
    Path("agent/config.json").write_text('{"config": {"env": "CartPole-v1"}}')
    if words == "report run":
        Path("run/stages/T1.json").write_text("[]")
    code, out, err = call(*(str(DATA) if word == "DATA" else word for word in words.split()))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert line in err
