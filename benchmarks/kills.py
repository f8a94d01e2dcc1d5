"""Kill a run of ``cartpole-state`` twenty times or more with SIGKILL, resume it, compare it with an unbroken run.

usage: python benchmarks/kills.py [--output FILE]

Moments are drawn over the training steps of the stages of the unbroken run, at least three in each, and two of them lie
in the middle of writing a checkpoint. Prints one JSON object: kills, and tensors that differ in each stage (all 0).
"""

import argparse
import json
import math
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

VICTIM = Path(__file__).parent.parent / "tests" / "victim.py"
KILLS = 20


def train(moment: str, run: Path) -> int:
    """Run or take up the training, to be killed at the moment; return the exit code."""
    command = [sys.executable, str(VICTIM), moment, "train", "cartpole-state", "--run", str(run), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, -9):
        raise SystemExit(done.stderr)
    return done.returncode


def moments(summary: dict[str, Any]) -> list[str]:
    """Draw the moments, in the order in which a run meets them."""
    draw = random.Random(0)
    names = ["ann", *(attempt["name"] for attempt in summary["attempts"])]
    share = max(3, math.ceil((KILLS - 2) / len(names)))
    found = []
    for name in names:
        steps = summary["stages"][0]["steps"] if name == "ann" else summary["recipe"]["reduction"]["batches"]
        found += [f"{name}@{step}" for step in sorted(draw.sample(range(50, steps - 50), share))]
        if name in (names[0], names[-1]):
            found.append(f"{name}@write:{4 if name == 'ann' else 3}")
    return found


def differing(one: Path, other: Path) -> int:
    """Return how many tensors of two agents are not equal bit for bit."""
    ours, theirs = (read_archive(path).tensors["policy"] for path in (one, other))
    return sum(not torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        train("never", whole)
        summary = json.loads((whole / "summary.json").read_text())
        stages = summary["stages"]
        killed = []
        for moment in moments(summary):
            killed.append({"moment": moment, "killed": train(moment, broken) == -9})
            print(json.dumps(killed[-1]), flush=True)
        train("never", broken)
        result = {
            "name": "kills",
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
