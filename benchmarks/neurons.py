"""Reward at T = 1 by kind of neuron and way of training: whole runs, by seed; a killed one goes on.

Writes ``results/RECIPE/neurons.csv``, rows of other runs kept. The ordinary networks that teach and are converted are
those of the first runs, one for each seed.
"""

import argparse
import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any

from snnrl.cli import main as snnrl
from snnrl.files import write_atomically
from snnrl.tables import to_csv

RESULTS = Path(__file__).parent / "results"
KINDS = ("lif", "hoyer", "binary")
WAYS = {
    "T = 5, then 1": ["--from", "ANN", "--schedule", "5,1"],
    "straight from the ordinary network": ["--from", "ANN", "--schedule", "1"],
    "from scratch, taught": ["--from", "scratch", "--teacher", "ANN", "--schedule", "1"],
    "from scratch, rewards alone": ["--from", "scratch", "--T", "1"],
}
MEMORY = "arithmetic and memory, everything in SRAM"
MISSED = 3
"""Exit code of a run whose last stage missed its gate."""


def trained(recipe: str, folder: Path, words: list[str]) -> list[dict[str, Any]]:
    """Run the stages unless it has been done, and return their figures."""
    code = snnrl(["train", recipe, *words, "--run", str(folder)])
    if code not in (0, MISSED):
        raise SystemExit(f"{folder} was not finished; the same command goes on with it")
    stages: list[dict[str, Any]] = json.loads((folder / "summary.json").read_text())["stages"]
    return stages


def with_memory(agent: Path) -> float:
    """Return an agent's energy ratio with every memory access counted, as ``snnrl energy`` tells it, and keep it."""
    kept = agent.with_suffix(".energy.json")
    if not kept.exists():
        said = io.StringIO()
        with redirect_stdout(said):
            if snnrl(["energy", str(agent), "--json"]):
                raise SystemExit(f"the energy of {agent} could not be told")
        write_atomically(kept, said.getvalue().splitlines()[-1].encode())
    return float(json.loads(kept.read_text())["what_if"][MEMORY])


def row(kind: str, way: str, seed: int, folder: Path, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is told of a run: its last stage, and the minutes of its own training."""
    stage = stages[-1]
    return {
        "neuron": kind,
        "way": way,
        "seed": seed,
        "reward": round(stage["reward_mean"], 2),
        "std": round(stage["reward_std"], 2),
        "energy_ratio": round(stage["energy_ratio"], 3),
        "energy_ratio_with_memory": round(with_memory(folder / stage["agent"]), 3) if stage["T"] else 1.0,
        "spikes_per_neuron": round(fmean(stage["spike_rate"].values()), 4) if stage["spike_rate"] else "",
        "minutes": round(sum(stage["minutes"] for stage in stages if stage["T"] is not None or way == "-"), 2),
    }


def keep(path: Path, new: dict[str, Any]) -> None:
    """Put a row into a table, in place of one of the same kind, way and seed."""
    rows = {place(new): new}
    if path.exists():
        with path.open() as file:
            rows = {place(old): old for old in csv.DictReader(file)} | rows
    lines = [rows[at].values() for at in sorted(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, to_csv([*new], lines).encode())


def place(row: dict[str, Any]) -> tuple[int, int, int]:
    """Return where a row stands among others."""
    return ["-", *WAYS].index(row["way"]), ["ordinary", *KINDS].index(row["neuron"]), int(row["seed"])


def main() -> None:
    """Run everything, one after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipe", help="such as cartpole")
    options.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options.add_argument("--ann", help="an ordinary agent for all seeds, such as pong/ann; else each has its own")
    options.add_argument("--runs", type=Path, default=Path("runs/neurons"), help="folder of the runs")
    given = options.parse_args()
    table = RESULTS / given.recipe / "neurons.csv"
    for seed in given.seeds:
        start = given.ann
        if start is None:
            folder = given.runs / f"{given.recipe}-ann-{seed}"
            stages = trained(given.recipe, folder, ["--schedule", "1", "--seed", str(seed)])
            keep(table, row("ordinary", "-", seed, folder, stages[:1]))
            start = str(folder / "ann.zip")
        for way in given.ways:
            for kind in given.kinds:
                if kind == "binary" and "5,1" in WAYS[way]:
                    continue  # it has one timestep
                words = [start if word == "ANN" else word for word in WAYS[way]]
                folder = given.runs / f"{given.recipe}-{kind}-{list(WAYS).index(way)}-{seed}"
                stages = trained(given.recipe, folder, [*words, "--neuron", kind, "--seed", str(seed)])
                keep(table, row(kind, way, seed, folder, stages))


if __name__ == "__main__":
    main()
