"""Being killed at any moment and run again gives the weights of an unbroken run, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snnrl.checkpoint import read_archive

RECIPE = """
env: CartPole-v1
n_envs: 2
T: 3
step: 2
network: {net_arch: [32, 32]}
dqn: {buffer_size: 1000, learning_starts: 200, batch_size: 32, target_update_interval: 100}
ann: {steps: 2400, eval_every: 800, checkpoint_every: 300}
reduction: {batches: 200, batch_size: 32, frames: 600, own_frames: 200, rounds: 2, checkpoint_every: 50}
gate: {episodes: 4, tolerance: 0.3}
report_episodes: 3
"""
TD = "reduction: {loss: td, td: {steps: 600, eval_every: 300, checkpoint_every: 200}}\n"
PONG = """
base: atari
env: pong
n_envs: 2
T: 2
atari: {size: 42, most_frames: 400}
network: {kind: small, features: 16}
dqn:
  {buffer_size: 400, learning_starts: 100, batch_size: 16, target_update_interval: 100,
   final_learning_rate: 1.0e-5}
ann: {steps: 900, eval_every: 400, checkpoint_every: 150, milestone_every: 400}
reduction: {batches: 40, batch_size: 16, frames: 200, own_frames: 100, rounds: 1, last_rounds: 2, checkpoint_every: 10}
gate: {episodes: 2}
report_episodes: 2
"""
SINGLE = PONG[: PONG.index("reduction")].replace("atari\nenv: pong", "pong-paper")
SINGLE += (
    "reduction: {td: {steps: 400, eval_every: 400, checkpoint_every: 150}}\ngate: {episodes: 2}\nreport_episodes: 2\n"
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


def run(moment: str, recipe: Path, folder: Path) -> int:
    command = [sys.executable, str(Path(__file__).parent / "victim.py"), moment]
    command += ["train", str(recipe), "--run", str(folder), "--device", "cpu"]
    if "cifar10" in recipe.read_text():
        command += ["--data", str(Path(__file__).parent / "data" / "cifar10")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode in (0, 3, -9), done.stderr
    return done.returncode


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


@pytest.fixture(scope="module", params=RECIPES)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPES[request.param])
    assert run("never", recipe, folder / "unbroken") in (0, 3)
    return recipe, folder / "unbroken", request.param


MOMENTS = {
    "distill": [
        ["ann@250", "ann@700", "ann@1900", "T3@50", "T3@150", "T1@100"],
        ["ann@write:2", "ann@write:5", "T3@write:3", "T1@write:4", "T1@write:2"],
    ],
    "td": [["ann@1300", "T3@100", "T3@450", "T1@write:3", "T1@550"]],
    "pong-paper": [["ann@500", "T2@170", "T1@write:2"]],
    # 18 batches a stage; an unbroken one writes five checkpoints, its classifier and its result
    "images": [
        ["ann@3", "ann@write:2", "ann@12", "T2@write:1", "T2@14", "T1@10"],
        ["ann@write:6", "ann@write:2", "T2@write:7", "T1@write:5", "T1@18", "T1@write:3"],
    ],
    "images-swapped": [["ann@10", "ann@write:3", "T2@11", "T2@18", "T1@write:4", "T1@13"]],
    "pong": [["ann@170", "ann@500", "ann@write:4", "ann@880", "T2@write:2", "T1@write:1"]],
}


@pytest.mark.parametrize("number", [0, 1])
def test_killed_and_resumed(unbroken: tuple[Path, Path, str], number: int, tmp_path: Path) -> None:
    recipe, whole, loss = unbroken
    if number >= len(MOMENTS[loss]):
        return
    broken = tmp_path / "broken"
    killed = [run(moment, recipe, broken) == -9 for moment in MOMENTS[loss][number]]
    assert sum(killed) >= len(killed) - 1, f"only {killed} of the moments came"
    assert run("never", recipe, broken) in (0, 3)
    assert weights(broken) == weights(whole)
    assert outcomes(broken) == outcomes(whole)
    assert {file.name for file in broken.glob("*.zip")} == {file.name for file in whole.glob("*.zip")}
    assert not list(broken.rglob("*.tmp"))


def test_another_seed_gives_other_weights(unbroken: tuple[Path, Path, str], tmp_path: Path) -> None:
    recipe, whole, _ = unbroken
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text() + "seed: 1\n")
    assert run("never", other, tmp_path / "other") in (0, 3)
    assert weights(tmp_path / "other") != weights(whole)
