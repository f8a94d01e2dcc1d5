"""Reward at T = 1 after different schedules: whole runs of a recipe, by schedule and seed; a killed one goes on."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rows import Rows

from snnrl.cli import main as snnrl

SCHEDULES = ("1", "5,1", "5,3,1", "5,4,3,2,1")


def summary_of(recipe: str, schedule: str, seed: int, runs: Path) -> dict[str, Any]:
    """Train, unless it has been done, and return the run's summary."""
    folder = runs / f"{recipe}-{schedule}-{seed}"
    if snnrl(["train", recipe, "--schedule", schedule, "--seed", str(seed), "--run", str(folder)]) not in (0, 3):
        raise SystemExit(f"{folder} was not finished; the same command goes on with it")
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def main() -> None:
    """Run everything and print the rows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("recipe", help="such as cartpole-state")
    options.add_argument("--schedules", nargs="+", default=SCHEDULES, help="lists of T, such as 5,3,1")
    options.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 on")
    options.add_argument("--runs", type=Path, default=Path("runs/schedules"), help="folder of the runs")
    options.add_argument("--output", help="file to write the rows to, as JSON lines")
    given = options.parse_args()
    rows = Rows(torch.get_num_threads())
    for schedule in given.schedules:
        for seed in range(given.seeds):
            summary = summary_of(given.recipe, schedule, seed, given.runs)
            first, last = summary["stages"][0], summary["stages"][-1]
            more = {"recipe": given.recipe, "schedule": schedule, "seed": seed, "gate_met": summary["gate_met"]}
            more["minutes"] = round(summary["minutes"] - first["minutes"], 2)  # of the spiking stages
            name = f"{given.recipe}, T=1 after the schedule {schedule}, seed {seed}"
            rows.add(name, last["reward_mean"], "reward", "ordinary DQN", first["reward_mean"], **more)
    rows.write(given.output)


if __name__ == "__main__":
    main()
