"""Reward against energy at T = 1 as spikes cost more: whole runs by penalty and seed; a killed one goes on.

Writes ``results/RECIPE/spike_penalty.csv`` and draws it in ``docs/RECIPE-spike-penalty.png``.
"""

import argparse
import csv
import io
import json
from pathlib import Path
from statistics import fmean

from matplotlib import pyplot

from snnrl.cli import main as snnrl
from snnrl.files import write_atomically

ROOT = Path(__file__).parent.parent
Row = dict[str, float]


def trained(recipe: str, start: str, penalty: float, seed: int, runs: Path) -> Row:
    """Train one stage, T = 1, unless it has been done, and return its figures."""
    folder = runs / f"{recipe}-{penalty:g}-{seed}"
    flags = {"from": start, "schedule": 1, "reduction.spike_penalty": penalty, "seed": seed, "run": folder}
    if snnrl(["train", recipe, *(str(part) for flag, value in flags.items() for part in (f"--{flag}", value))]) not in (
        0,
        3,
    ):
        raise SystemExit(f"{folder} was not finished; the same command goes on with it")
    stage = json.loads((folder / "summary.json").read_text())["stages"][-1]
    return {
        "penalty": penalty,
        "seed": seed,
        "reward": round(stage["reward_mean"], 2),
        "std": round(stage["reward_std"], 2),
        "energy_ratio": round(stage["energy_ratio"], 3),
        "spikes_per_neuron": round(fmean(stage["spike_rate"].values()), 4),
        "minutes": stage["minutes"],
    }


def draw(rows: list[Row], path: Path) -> None:
    """Draw reward against energy: every run as a point, the mean of each penalty on the line."""
    figure, panel = pyplot.subplots(figsize=(6.5, 3.4), layout="constrained")
    penalties = sorted({row["penalty"] for row in rows})
    means = []
    for number, penalty in enumerate(penalties):
        points = [(row["energy_ratio"], row["reward"]) for row in rows if row["penalty"] == penalty]
        panel.plot(*zip(*points, strict=True), "o", color=f"C{number}", markersize=4, label=f"penalty {penalty:g}")
        means.append((fmean(ratio for ratio, _ in points), fmean(reward for _, reward in points)))
    panel.plot(*zip(*means, strict=True), "-", color="grey", zorder=0, label="means")
    panel.set(xlabel="energy ratio, ordinary over spiking (Eq. 4)", ylabel="reward at T = 1")
    panel.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Run everything, then write the table and the figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipe", help="such as cartpole-state")
    options.add_argument("start", help="ordinary agent to begin with, such as cartpole-state/ann")
    options.add_argument("--penalties", nargs="+", type=float, default=(0, 0.03, 0.1, 0.3, 1, 3))
    options.add_argument("--seeds", type=int, default=5, help="number of seeds, from 0 on")
    options.add_argument("--runs", type=Path, default=Path("runs/spike_penalty"), help="folder of the runs")
    given = options.parse_args()
    rows = [
        trained(given.recipe, given.start, penalty, seed, given.runs)
        for penalty in given.penalties
        for seed in range(given.seeds)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    results = ROOT / "benchmarks" / "results" / given.recipe
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / "spike_penalty.csv", text.getvalue().encode())
    draw(rows, ROOT / "docs" / f"{given.recipe}-spike-penalty.png")


if __name__ == "__main__":
    main()
