"""Kill a run many times with SIGKILL, resume it, compare it with an unbroken run.

usage: python benchmarks/kills.py [cartpole-state|pong|cifar10-vgg6] [--output FILE]

Moments are drawn over the training steps of the unbroken run's stages, two of them in the middle of writing a
checkpoint: twenty or more of ``cartpole-state`` and of a small ``cifar10-vgg6`` on the images of the tests, eight of a
``pong`` cut to 100 k steps and two short stages.
Prints one JSON object: kills, and tensors that differ in each stage (all 0).
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from snnrl.checkpoint import read_archive
from snnrl.files import write_json

TESTS = Path(__file__).parent.parent / "tests"
VICTIM = TESTS / "victim.py"
SHORT = "--ann.steps 100000 --ann.eval-every 50000 --ann.checkpoint-every 20000 --dqn.gradient-steps 1 --schedule 2,1"
STAGES = "--reduction.frames 2000 --reduction.own-frames 1000 --reduction.batches 300 --reduction.rounds 1"
IMAGES = f"--data {TESTS / 'data' / 'cifar10'} --network.width 0.25 --schedule 3,2,1 --gate.tolerance 1"
CLASSIFIER = "--ann.epochs 20 --ann.batch-size 18 --ann.checkpoint-every 5"
STEPS = "--reduction.epochs 12 --reduction.batch-size 18 --reduction.checkpoint-every 5 --reduction.schedule steps"
GAMES = "--gate.episodes 1 --report-episodes 1 --gate.tolerance 0"
RUNS: dict[str, tuple[list[str], int]] = {
    "cartpole-state": ([], 3),
    "pong": (f"{SHORT} {STAGES} {GAMES}".split(), 2),
    "cifar10-vgg6": (f"{IMAGES} {CLASSIFIER} {STEPS}".split(), 5),
}
"""Flags of each run, and the kills in each stage but for those while a checkpoint is written."""


def train(recipe: str, moment: str, run: Path) -> int:
    """Run or take up the training, to be killed at the moment; return the exit code."""
    command = [sys.executable, str(VICTIM), moment, "train", recipe, "--run", str(run), "--device", "cpu"]
    command += RUNS[recipe][0]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, -9):
        raise SystemExit(done.stderr)
    return done.returncode


def moments(summary: dict[str, Any], share: int) -> list[str]:
    """Draw the moments, in an order in which a run meets them all: one that is past strikes at once."""
    draw = random.Random(0)
    names = ["ann", *(attempt["name"] for attempt in summary["attempts"])]
    found = []
    for name in names:
        drawn = [f"{name}@{step}" for step in sorted(draw.sample(range(50, length(summary, name) - 50), share))]
        if name == names[0]:
            drawn.insert(0, f"{name}@write:4")
        elif name == names[-1]:
            drawn.append(f"{name}@write:3")
        found += drawn
    return found


def length(summary: dict[str, Any], name: str) -> int:
    """Return the training steps of a stage: those of the environment, or batches."""
    settings = summary["recipe"]["ann" if name == "ann" else "reduction"]
    if "images" in summary:
        return int(settings["epochs"] * (summary["images"]["train"] // settings["batch_size"]))
    return int(summary["stages"][0]["steps"] if name == "ann" else settings["batches"])


def differing(one: Path, other: Path) -> int:
    """Return how many tensors of two agents are not equal bit for bit."""
    parts = (read_archive(path).tensors for path in (one, other))
    ours, theirs = (tensors.get("policy") or tensors["network"] for tensors in parts)
    return sum(not torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=RUNS, default="cartpole-state")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    recipe, output = given.recipe, given.output
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        train(recipe, "never", whole)
        summary = json.loads((whole / "summary.json").read_text())
        stages = summary["stages"]
        killed = []
        for moment in moments(summary, RUNS[recipe][1]):
            killed.append({"moment": moment, "killed": train(recipe, moment, broken) == -9})
            print(json.dumps(killed[-1]), flush=True)
        train(recipe, "never", broken)
        result = {
            "name": f"kills, {recipe}",
            "kills": sum(kill["killed"] for kill in killed),
            "moments": killed,
            "differing_tensors": {
                stage["name"]: differing(whole / stage["agent"], broken / stage["agent"]) for stage in stages
            },
        }
    print(json.dumps(result))
    if output:
        write_json(output, result)


if __name__ == "__main__":
    main()
