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
RECIPES = {"distill": RECIPE, "td": RECIPE[: RECIPE.index("reduction")] + TD, "pong": PONG, "pong-paper": SINGLE}


def run(moment: str, recipe: Path, folder: Path) -> int:
    command = [sys.executable, str(Path(__file__).parent / "victim.py"), moment]
    command += ["train", str(recipe), "--run", str(folder), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode in (0, 3, -9), done.stderr
    return done.returncode


def weights(folder: Path) -> dict[str, dict[str, list[float]]]:
    found = {}
    for stage in json.loads((folder / "summary.json").read_text())["stages"]:
        tensors = read_archive(folder / stage["agent"]).tensors["policy"]
        found[stage["name"]] = {name: tensor.double().flatten().tolist() for name, tensor in tensors.items()}
    return found


def rewards(folder: Path) -> list[list[float]]:
    return [stage["rewards"] for stage in json.loads((folder / "summary.json").read_text())["stages"]]


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
    assert rewards(broken) == rewards(whole)
    assert {file.name for file in broken.glob("*.zip")} == {file.name for file in whole.glob("*.zip")}
    assert not list(broken.rglob("*.tmp"))


def test_another_seed_gives_other_weights(unbroken: tuple[Path, Path, str], tmp_path: Path) -> None:
    recipe, whole, _ = unbroken
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text() + "seed: 1\n")
    assert run("never", other, tmp_path / "other") in (0, 3)
    assert weights(tmp_path / "other") != weights(whole)
