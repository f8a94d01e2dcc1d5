"""Keep the training curve of a run's ordinary network: ``python benchmarks/training_curve.py RUN NAME``.

Writes ``results/NAME/curve.csv`` (agent steps, mean reward of the last 20 training episodes, mean reward of the gate's
episodes where they were played) from the run's logs, and draws it in ``docs/NAME.png`` beside the stages' rewards.
"""

import argparse
import csv
from pathlib import Path

from matplotlib import pyplot

from snnrl.agents.spiking_dqn.td import RECENT
from snnrl.runs import RunFolder

ROOT = Path(__file__).parent.parent
COLUMNS = {
    "steps": "time/total_timesteps",
    "training": f"rollout/reward_mean_{RECENT}",
    "gate": "eval/reward",
}


def read(run: Path) -> list[dict[str, str]]:
    """Return the logged rows of all continuations, each step once, in order."""
    rows: dict[int, dict[str, str]] = {}
    for log in sorted((run / "logs").glob("ann*/progress.csv"), key=lambda path: path.stat().st_mtime):
        with log.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get(COLUMNS["steps"]):
                    kept = rows.setdefault(int(row[COLUMNS["steps"]]), dict.fromkeys(COLUMNS, ""))
                    kept.update({name: row[key] for name, key in COLUMNS.items() if row.get(key)})
    return [rows[step] for step in sorted(rows)]


def main() -> None:
    """Write the CSV file and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    given = parser.parse_args()
    rows = read(given.run)
    folder = ROOT / "benchmarks" / "results" / given.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    figure, panel = pyplot.subplots(figsize=(6.5, 3.2), layout="constrained")
    for column, label, style in (("training", f"training, last {RECENT} games", "-"), ("gate", "at the gate", "o")):
        points = [(int(row["steps"]), float(row[column])) for row in rows if row[column]]
        steps, rewards = [step for step, _ in points], [reward for _, reward in points]
        panel.plot(steps, rewards, style, label=f"ordinary, {label}", markersize=4)
    for number, stage in enumerate(RunFolder(given.run).summary()["stages"], 2):
        label = f"{stage['name']}, reported: {stage['reward_mean']:.1f}"
        panel.axhline(stage["reward_mean"], linestyle=":", color=f"C{number}", label=label)
    panel.set(xlabel="agent steps", ylabel="reward")
    panel.legend(frameon=False, fontsize="small")
    figure.savefig(ROOT / "docs" / f"{given.name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
