"""Being killed at any moment and run again gives the weights of an unbroken run, bit for bit."""

import functools
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import victim

from snnrl.checkpoint import read_archive

RECIPE = """
env: CartPole-v1
n_envs: 2
T: 3
step: 2
network: {net_arch: [32, 32]}
dqn: {buffer_size: 500, learning_starts: 100, batch_size: 32, target_update_interval: 50}
ann: {steps: 1200, eval_every: 400, checkpoint_every: 150}
reduction: {batches: 100, batch_size: 32, frames: 300, own_frames: 100, rounds: 2, checkpoint_every: 25}
gate: {episodes: 4, tolerance: 0.3}
report_episodes: 3
"""
TD = "reduction: {loss: td, td: {steps: 300, eval_every: 150, checkpoint_every: 100}}\n"
PONG = """
base: atari
env: pong
n_envs: 2
T: 2
atari: {size: 42, most_frames: 400}
network: {kind: small, features: 16}
dqn:
  {buffer_size: 200, learning_starts: 50, batch_size: 16, target_update_interval: 50,
   final_learning_rate: 1.0e-5}
ann: {steps: 300, eval_every: 200, checkpoint_every: 75, milestone_every: 200}
reduction: {batches: 40, batch_size: 16, frames: 200, own_frames: 100, rounds: 1, last_rounds: 2, checkpoint_every: 10}
gate: {episodes: 1}
report_episodes: 1
"""
SINGLE = PONG[: PONG.index("reduction")].replace("atari\nenv: pong", "pong-paper")
SINGLE += (
    "reduction: {td: {steps: 200, eval_every: 200, checkpoint_every: 75}}\ngate: {episodes: 1}\nreport_episodes: 1\n"
)
IMAGES = """
base: cifar10-vgg6
schedule: [2, 1]
network: {width: 0.25, hidden: [16]}
ann: {epochs: 2, batch_size: 26, schedule: one-cycle, checkpoint_every: 4}
conversion: {images: 64}
reduction: {epochs: 2, batch_size: 26, schedule: steps, drops: [0.5], distillation: 0.5, checkpoint_every: 4}
gate: {tolerance: 1}
"""
IMAGES_SWAPPED = """
base: cifar10-vgg6
schedule: [2, 1]
precision: fp32
network: {width: 0.25, hidden: [16]}
neuron: if
ann: {epochs: 2, batch_size: 26, optimizer: Adam, schedule: steps, drops: [0.5], checkpoint_every: 4}
conversion: {images: 64}
reduction:
  {epochs: 2, batch_size: 26, optimizer: SGD, schedule: one-cycle, distillation: 1, spike_penalty: 0.1,
   checkpoint_every: 4}
gate: {tolerance: 1}
"""
RECIPES = {
    "distill": RECIPE,
    "td": RECIPE[: RECIPE.index("reduction")] + TD,
    "pong": PONG,
    "pong-paper": SINGLE,
    "images": IMAGES,
    "images-swapped": IMAGES_SWAPPED,
}

Unbroken = Callable[[str], tuple[Path, Path]]
VICTIMS = multiprocessing.get_context("forkserver")
"""Processes that have imported everything when they begin."""
VICTIMS.set_forkserver_preload(
    ["snnrl.commands.train", "snnrl.agents.classifier.training", "snnrl.report.page", "torch._dynamo"]
)


def run(moment: str, recipe: Path, folder: Path) -> int:
    words = ["train", str(recipe), "--run", str(folder), "--device", "cpu"]
    if "cifar10" in recipe.read_text():
        words += ["--data", str(Path(__file__).parent / "data" / "cifar10")]
    said = folder.with_suffix(".log")
    process = VICTIMS.Process(target=victim.run, args=(moment, words, said))
    process.start()
    process.join(300)
    assert process.exitcode in (0, 3, -9), said.read_text()
    return process.exitcode


def weights(folder: Path) -> dict[str, dict[str, list[float]]]:
    found = {}
    for stage in json.loads((folder / "summary.json").read_text())["stages"]:
        parts = read_archive(folder / stage["agent"]).tensors
        tensors = parts["network" if "accuracy" in stage else "policy"]
        found[stage["name"]] = {name: tensor.double().flatten().tolist() for name, tensor in tensors.items()}
    return found


def outcomes(folder: Path) -> list[list[float]]:
    stages = json.loads((folder / "summary.json").read_text())["stages"]
    return [stage["rewards"] if "rewards" in stage else [stage["gate_accuracy"], *stage["wrong"]] for stage in stages]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """Return a function from a recipe's name to its file and the folder of an unbroken run."""

    @functools.cache
    def found(name: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPES[name])
        assert run("never", recipe, folder / "unbroken") in (0, 3)
        return recipe, folder / "unbroken"

    return found


MOMENTS = {
    "distill": [
        ["ann@125", "ann@350", "ann@950", "T3@25", "T3@75", "T1@50"],
        ["ann@write:2", "ann@write:5", "T3@write:3", "T1@write:4", "T1@write:2"],
    ],
    "td": [["ann@650", "T3@50", "T3@225", "T1@write:3", "T1@275"]],
    "pong-paper": [["ann@250", "T2@85", "T1@write:2"]],
    # 18 batches a stage; an unbroken one writes five checkpoints, its classifier and its result
    "images": [
        ["ann@3", "ann@write:2", "ann@12", "T2@write:1", "T2@14", "T1@10"],
        ["ann@write:6", "ann@write:2", "T2@write:7", "T1@write:5", "T1@18", "T1@write:3"],
    ],
    "images-swapped": [["ann@10", "ann@write:3", "T2@11", "T2@18", "T1@write:4", "T1@13"]],
    "pong": [["ann@write:4", "ann@250", "T2@write:2", "T1@write:1"]],
}


@pytest.mark.parametrize(
    ("name", "moments"), [(name, moments) for name, of_recipe in MOMENTS.items() for moments in of_recipe]
)
def test_killed_and_resumed(unbroken: Unbroken, name: str, moments: list[str], tmp_path: Path) -> None:
    recipe, whole = unbroken(name)
    broken = tmp_path / "broken"
    killed = [run(moment, recipe, broken) == -9 for moment in moments]
    assert sum(killed) >= len(killed) - 1, f"only {killed} of the moments came"
    assert run("never", recipe, broken) in (0, 3)
    assert weights(broken) == weights(whole)
    assert outcomes(broken) == outcomes(whole)
    assert {file.name for file in broken.glob("*.zip")} == {file.name for file in whole.glob("*.zip")}
    assert not list(broken.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["td", "images"])
def test_another_seed_gives_other_weights(unbroken: Unbroken, name: str, tmp_path: Path) -> None:
    recipe, whole = unbroken(name)
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text() + "seed: 1\n")
    assert run("never", other, tmp_path / "other") in (0, 3)
    assert weights(tmp_path / "other") != weights(whole)
