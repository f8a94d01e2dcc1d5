"""Write the pages' tables of results from the files in ``results/``, each between its two comments."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from snnrl.statistics import mean_estimate

RESULTS = Path(__file__).parent / "results"
ZOO = Path(__file__).parent.parent / "agents" / "zoo"
PAGES = [
    Path(__file__).parent.parent / name
    for name in (
        "README.md",
        *(
            f"docs/{page}.md"
            for page in ("results", "results-images", "speed", "export", "neurons", "recurrent", "window")
        ),
    )
]
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return a page with every marked table as the results are now."""
    return MARKED.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]]()}\n{mark[3]}", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def seeds(recipe: str) -> list[dict[str, Any]]:
    """Return the summaries of a recipe's runs, by seed."""
    files = (RESULTS / recipe).glob("seed*.json")
    return sorted((json.loads(file.read_text()) for file in files), key=lambda summary: summary["seed"])


def lines(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def stages(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a run's stages by name."""
    return {stage["name"]: stage for stage in summary["stages"]}


def reward(stage: dict[str, Any]) -> str:
    """Return mean and standard deviation."""
    return f"{stage['reward_mean']:.1f} +- {stage['reward_std']:.1f}"


GLANCE = {
    "cartpole": "pixel CartPole",
    "cartpole-hoyer-scratch": "the same, no ordinary network",
    "cartpole-state": "CartPole from its state",
    "pong": "Pong",
    "pong-1frame": "Pong from one frame",
    "pong-binary": "Pong in binary frames",
    "breakout": "Breakout, for a short time",
}
"""Folders of results, and what the README calls them."""


def glance() -> str:
    """Return a row for every experiment: means over its seeds at T = 1."""
    columns = ["game or images", "seeds", "ordinary network", "T = 1", "energy ratio", "spikes per neuron", "minutes"]
    rows = []
    for folder, name in GLANCE.items():
        summaries = seeds(folder)
        first = [stages(summary)["ann"]["reward_mean"] for summary in summaries if "ann" in stages(summary)]
        last = [stages(summary)["T1"] for summary in summaries]
        figures = [f"{fmean(first):.1f}" if first else "-", f"{fmean(stage['reward_mean'] for stage in last):.1f}"]
        figures += [f"{fmean(stage['energy_ratio'] for stage in last):.2f}", spikes(*last)]
        rows.append([name, str(len(summaries)), *figures, f"{fmean(summary['minutes'] for summary in summaries):.0f}"])
    summary = json.loads((RESULTS / "images" / "vgg6_full_width.json").read_text())
    first, last = stages(summary)["ann"], stages(summary)["T1"]
    figures = [f"{stage['accuracy']:.2%}" for stage in (first, last)] + [f"{last['energy_ratio']:.2f}", spikes(last)]
    rows.append(["CIFAR-10, VGG6", "1", *figures, f"{summary['minutes']:.0f}"])
    return table(columns, rows)


def spikes(*found: dict[str, Any]) -> str:
    """Return spikes per neuron and decision, the mean over the layers of some stages."""
    return f"{fmean(rate for stage in found for rate in stage['spike_rate'].values()):.2f}"


def runs(recipe: str) -> str:
    """Return a row for every seed: reward by stage, then energy, spikes and time."""
    summaries = seeds(recipe)
    names = [name for name in stages(summaries[0]) if all(name in stages(summary) for summary in summaries)]
    columns = ["seed", "ordinary DQN", *(f"T = {name[1:]}" for name in names[1:])]
    columns += ["energy ratio at T = 1", "spikes per neuron at T = 1", "minutes"]
    rows = []
    for summary in summaries:
        found = stages(summary)
        last = found["T1"]
        figures = [f"{last['energy_ratio']:.2f}", spikes(last), f"{summary['minutes']:.1f}"]
        rows.append([str(summary["seed"]), *(reward(found[name]) for name in names), *figures])
    return table(columns, rows)


def schedules() -> str:
    """Return a row for every schedule: the reward at T = 1 seed by seed, and the time."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in lines("schedules.jsonl"):
        found.setdefault((row["recipe"], row["schedule"]), []).append(row)
    columns = ["recipe", "schedule", "reward at T = 1, by seed", "mean", "gates met", "minutes of the stages, mean"]
    rows = []
    for (recipe, schedule), of_seeds in found.items():
        rewards = [row["value"] for row in of_seeds]
        met = sum(row["gate_met"] for row in of_seeds)
        minutes = sum(row["minutes"] for row in of_seeds) / len(of_seeds)
        each = ", ".join(f"{value:.1f}" for value in rewards)
        mean = f"{sum(rewards) / len(rewards):.1f}"
        rows.append([recipe, schedule, each, mean, f"{met} of {len(of_seeds)}", f"{minutes:.1f}"])
    return table(columns, rows)


PAPER = {"ann": 40.3, "T5": 52.2, "T3": 52.2, "T1": 38.7}
"""arXiv 2110.05929, appendix: rewards on CartPole; the text gives one figure for T = 3 and T = 5."""


def paper() -> str:
    """Return a row for every stage under the paper's protocol: greedy reward, and the mean of the training curve."""
    summaries = seeds("cartpole-paper")
    columns = ["stage", *(f"seed {summary['seed']}" for summary in summaries), "mean", "in training", "paper"]
    rows = []
    for name, printed in PAPER.items():
        of_seeds = [stages(summary)[name] for summary in summaries]
        mean = sum(stage["reward_mean"] for stage in of_seeds) / len(of_seeds)
        curves = [stage["episode_rewards"] for stage in of_seeds]
        training = sum(sum(curve) / len(curve) for curve in curves) / len(curves)
        rows.append([name, *map(reward, of_seeds), f"{mean:.1f}", f"{training:.1f}", f"{printed}"])
    return table(columns, rows)


def pong_paper() -> str:
    """Return the rows of the paper's setting of Pong beside the paper's own."""
    summary = seeds("pong-paper")[0]
    published = {"ann": "19.7", "T5": "19.4", "T1": "17.4 +- 3.2"}
    ratios = {"T5": "5.22", "T1": "7.55"}
    rows = []
    for name, stage in stages(summary).items():
        theirs = published.get(name, "-"), ratios.get(name, "-")
        rows.append([name, reward(stage), theirs[0], f"{stage['energy_ratio']:.2f}", theirs[1], rates(stage)])
    for found in json.loads((RESULTS / "pong-paper" / "converted.json").read_text()):
        name = f"T100, converted, percentile {found['percentile']:g}"
        rows.append([name, reward(found), "19.4 +- 1.3", f"{found['energy_ratio']:.2f}", "1.75", rates(found)])
    return table(["stage", "reward", "paper", "energy ratio", "paper's ratio", "spikes per neuron, by layer"], rows)


def rates(stage: dict[str, Any]) -> str:
    """Return spikes per neuron and decision, layer by layer."""
    return " ".join(f"{rate:.2f}" for rate in stage["spike_rate"].values()) or "-"


def foreign() -> str:
    """Return a row for every stage of the conversion of an agent trained by others."""
    summary = json.loads((RESULTS / "convert.json").read_text())
    columns = ["stage", "reward", "energy ratio", "minutes"]
    rows = [[s["name"], reward(s), f"{s['energy_ratio']:.2f}", f"{s['minutes']:.1f}"] for s in summary["stages"]]
    return table(columns, rows)


ROWS = (
    ("training step, T=5, float32 against float32", "spikingjelly 2.0.0, input repeated", 0.8),
    ("training step, T=5, bfloat16 against float32", "spikingjelly 2.0.0, input repeated", 0.45),
    ("training step, T=5, bfloat16 against bfloat16", "spikingjelly 2.0.0, input repeated", None),
    ("training step, T=5, float32 against float32", "spikingjelly 2.0.0", None),
    ("training step, T=5, bfloat16 against float32", "spikingjelly 2.0.0", None),
    ("training step, T=1, bfloat16 against float32", "ReLU network", 0.8),
    ("training step, T=1, float32 against float32", "ReLU network", 0.8),
    ("inference of one observation, T=1, float32", "ReLU network", 1.1),
    ("peak memory of a training step, T=5, float32", "spikingjelly 2.0.0", 0.67),
)
"""The rows of the speed benchmark that the README shows, with the aim of those that have one."""


STEPS: dict[str, dict[str, float]] = {
    "cartpole_steps.jsonl": {"SpikingDQN": 0.8},
    "atari_steps.jsonl": {"AtariVecEnv": 0.9},
    "atari_training.jsonl": {"Pong, ordinary network, bf16": 2.0, "Pong, T=1, bf16": 1.5},
}
"""Files of steps per second, and the aims of those of their rows that have one."""


def speed() -> str:
    """Return the rows of the speed benchmark against the best peer, and the steps per second against SB3."""
    found = {(row["name"], row["peer"]): row for row in lines("nature_cnn.jsonl")}
    rows = []
    for name, peer, aim in ROWS:
        row = found[name, peer]
        missed = " (missed)" if aim is not None and row["ratio"] > aim else ""
        unit = row["unit"]
        figures = [f"{row['value']:.2f} {unit}", f"{peer}: {row['peer_value']:.2f} {unit}"]
        rows.append([name, *figures, f"{row['ratio']:.2f}{missed}", f"at most {aim}" if aim else "-"])
    for file, aims in STEPS.items():
        for row in lines(file):
            aim = next((aim for start, aim in aims.items() if row["name"].startswith(start)), None)
            missed = " (missed)" if aim is not None and row["ratio"] < aim else ""
            figures = [f"{row['value']:.0f} {row['unit']}", f"{row['peer']}: {row['peer_value']:.0f} {row['unit']}"]
            rows.append([row["name"], *figures, f"{row['ratio']:.2f}{missed}", f"at least {aim}" if aim else "-"])
    for row in lines("frame_replay.jsonl"):
        aim = 1.0 if "sampling" in row["name"] else None
        missed = " (missed)" if aim is not None and row["ratio"] > aim else ""
        figures = [f"{row['value']:.2f} {row['unit']}", f"{row['peer']}: {row['peer_value']:.2f} {row['unit']}"]
        rows.append([row["name"], *figures, f"{row['ratio']:.2f}{missed}", f"at most {aim}" if aim else "-"])
    return table(["what", "snnrl", "peer", "ratio", "aim"], rows)


IMAGE_AIMS = (
    (", training step, T=5, fp32 against fp32", "", 0.8),
    (", training step, neurons compiled, T=5, fp32 against fp32", "", 0.8),
    ("T=5, bf16 against fp32", "", 0.5),
    ("T=1, fp32 against fp32", "ReLU", 1.0),
    ("memory", "", 0.67),
)
"""Parts of the names and peers of rows of image networks, and their aims."""


def image_speed() -> str:
    """Return the rows of image networks, and the ratio of processor times where it was measured."""
    rows = []
    for row in lines("image_networks.jsonl"):
        aims = (aim for part, peer, aim in IMAGE_AIMS if part in row["name"] and peer in row["peer"])
        aim = next(aims, None)
        ratio = row.get("processor_ratio", row["ratio"])
        missed = " (missed)" if aim is not None and ratio > aim else ""
        figures = [f"{row['value']:.0f} {row['unit']}", f"{row['peer']}: {row['peer_value']:.0f} {row['unit']}"]
        rows.append(
            [row["name"], *figures, f"{row['ratio']:.2f}", f"{ratio:.2f}{missed}", f"at most {aim}" if aim else "-"]
        )
    return table(["what", "snnrl", "peer", "ratio", "by processor time", "aim"], rows)


def image_tables(*names: str) -> str:
    """Return the lines of ``snnrl table NAME``, a paper's accuracy beside that of the small budget here."""
    columns = ["table", "network", "stage", "paper, %", "here, %", "spikes per neuron", "energy ratio", "seconds"]
    rows = []
    for name in names:
        file = RESULTS / "images" / f"table-{name}.csv"
        for line in csv.DictReader(file.read_text().splitlines()) if file.exists() else ():
            if not line["accuracy"]:
                continue
            spikes = f"{float(line['spikes_per_neuron']):.2f}" if line["spikes_per_neuron"] else "-"
            figures = [f"{float(line['accuracy']):.2f}", spikes, f"{float(line['energy_ratio']):.1f}"]
            if line["failed"]:
                figures[0] += f" (fails: {line['failed']})"
            figures.append(f"{float(line['seconds']):.0f}")
            paper = f"{float(line['paper']):.2f}" if line["paper"].replace(".", "").isdigit() else line["paper"] or "-"
            rows.append([name, line["row"], line["stage"], paper, *figures])
    return table(columns, rows)


CHAINS = {
    "vgg6_full_width": "VGG6, full width",
    "chain_vgg16": "VGG16, a quarter, two passing epochs",
    "chain_vgg16_longer": "VGG16, a quarter, eight passing epochs",
    "chain_vgg16_direct": "VGG16, a quarter, straight to T = 1",
    "chain_resnet20": "ResNet20, a quarter, two passing epochs",
}
"""Files of longer runs on images, and what the page calls them."""


def image_chains() -> str:
    """Return a row for every stage of the longer runs, and whether it met its gate."""
    columns = ["network", "stage", "epochs", "test images, %", "gate", "spikes per neuron", "energy ratio", "minutes"]
    rows = []
    for file, name in CHAINS.items():
        for stage in json.loads((RESULTS / "images" / f"{file}.json").read_text())["stages"]:
            gate = "-" if stage["T"] is None else "met" if stage["gate_passed"] else "missed"
            figures = [f"{100 * stage['accuracy']:.2f}", gate, spikes(stage) if stage["spike_rate"] else "-"]
            figures += [f"{stage['energy_ratio']:.2f}", f"{stage['minutes']:.0f}"]
            epochs = str(len(stage["curve"])) if "curve" in stage else "-"
            rows.append([name, stage["name"], epochs, *figures])
    return table(columns, rows)


def shipped() -> str:
    """Return a row for every shipped agent: reward in 30 games as its card tells, how many differ, energy, spikes."""
    rows = []
    for card in sorted(ZOO.glob("*/summary.json")):
        for stage in json.loads(card.read_text())["stages"]:
            also = [reward(other) for other in stage.get("also", [])] or ["-", "-"]
            figures = [f"{stage['energy_ratio']:.2f}", spikes(stage) if stage["spike_rate"] else "-"]
            name, distinct = f"{card.parent.name}/{stage['name']}", str(stage["distinct_episodes"])
            rows.append([name, reward(stage), distinct, *also, *figures])
    columns = ["agent", "greedy", "different games", "epsilon 0.01", "protocol v5", "energy ratio", "spikes per neuron"]
    return table(columns, rows)


def export() -> str:
    """Return a row for each agent and kind of weights of exported C code: time, size, and what it does."""
    measured = {(row["name"], row["peer"]): row for row in lines("export/edge_speed.jsonl")}
    checked = {(row["agent"], row["weights"]): row for row in lines("export/export_check.jsonl")}
    columns = ["agent", "weights", "a decision, us", "faster than ONNX Runtime", "than torch", "instructions"]
    columns += ["code and constants, bytes", "actions that differ", "reward"]
    rows = []
    for agent in ("cartpole-state", "cartpole", "pong", "pong-binary"):
        for weights in ("float32", "int16", "int8"):
            by_onnxruntime, by_torch = (
                measured[f"{agent}, decision, {weights}", peer] for peer in ("onnxruntime", "torch")
            )
            instructions = measured[f"{agent}, instructions a decision, {weights}", "multiplies"]
            size = measured[f"{agent}, code and constants, {weights}", "aim with int8"]
            row = [agent, weights, f"{by_torch['value']:.1f}", f"{by_onnxruntime['faster']:.1f} x"]
            row += [f"{by_torch['faster']:.0f} x", f"{instructions['value']:,.0f}", f"{size['value']:,.0f}"]
            check = checked.get((agent, weights))
            if check is None:
                row += ["-", "-"]
            else:
                row += [f"{check['actions_that_differ_from_float32']:.2%}", f"{check['reward']:.1f}"]
            rows.append(row)
    return table(columns, rows)


def hoyer_scratch() -> str:
    """Return a row for every seed of Hoyer neurons trained from scratch by rewards alone."""
    columns = ["seed", "T = 1", "energy ratio", "spikes per neuron", "minutes"]
    rows = []
    for summary in seeds("cartpole-hoyer-scratch"):
        (stage,) = summary["stages"]
        figures = [f"{stage['energy_ratio']:.2f}", spikes(stage), f"{summary['minutes']:.1f}"]
        rows.append([str(summary["seed"]), reward(stage), *figures])
    return table(columns, rows)


def windows() -> str:
    """Return a row for every network of windows that imitated the ordinary network of pixel CartPole."""
    columns = ["network", "seed", "ordinary", "T = 1", "energy ratio", "spikes per neuron", "minutes"]
    rows = []
    for kind in ("window-conv", "window-lstm"):
        for summary in seeds(f"cartpole-{kind}"):
            ann, stage = summary["stages"]
            figures = [f"{stage['energy_ratio']:.2f}", f"{fmean(stage['spike_rate'].values()):.3f}"]
            rows.append([kind, str(summary["seed"]), reward(ann), reward(stage), *figures, f"{stage['minutes']:.1f}"])
    return table(columns, rows)


def kinds(path: Path, *names: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    """Return the rows of a CSV, those with the same words under these names together."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def by_seed(rows: list[dict[str, str]]) -> list[str]:
    """Return the rewards of all seeds, and their mean with its interval, from seeds drawn with replacement."""
    rewards = [float(row["reward"]) for row in rows]
    estimate = mean_estimate(rewards)
    interval = f"{estimate.value:.1f} ({estimate.low:.0f} to {estimate.high:.0f})" if len(rewards) > 1 else "-"
    return [", ".join(f"{reward:.1f}" for reward in rewards), interval]


def window_binary() -> str:
    """Return a row for every network of windows that was tested with maps above a half, and drawn by chance."""
    columns = ["run", "half, %", "by chance, %"]
    with (RESULTS / "images" / "window_binary.csv").open() as file:
        rows = [
            [row["run"], row["half"], f"{row['bernoulli']} ({row['lowest']} to {row['highest']})"]
            for row in csv.DictReader(file)
        ]
    return table(columns, rows)


def neurons(recipe: str) -> str:
    """Return a row for every way of training and kind of neuron: reward seed by seed, then means over seeds."""
    columns = ["way", "neurons", "reward by seed", "mean (95 %)"]
    columns += ["energy ratio", "with memory", "spikes per neuron", "minutes"]
    rows = [
        [*kind, *by_seed(of_seeds), *(mean(row[name] for row in of_seeds) for name in MEANS)]
        for kind, of_seeds in kinds(RESULTS / recipe / "neurons.csv", "way", "neuron").items()
    ]
    return table(columns, rows)


def masked() -> str:
    """Return a row for every network with memory on masked CartPole: reward seed by seed, then means over seeds."""
    columns = ["hidden layers", "network", "reward by seed", "mean (95 %)"]
    columns += ["spikes per neuron: fc1, LSTM", "parameters", "minutes"]
    rows = []
    for kind, of_seeds in kinds(RESULTS / "cartpole-masked" / "scores.csv", "layers", "network").items():
        spikes = ", ".join(mean(row[f"spikes_{layer}"] for row in of_seeds) for layer in ("fc1", "lstm"))
        minutes = mean(row["minutes"] for row in of_seeds)
        rows.append([*kind, *by_seed(of_seeds), spikes, of_seeds[0]["parameters"], minutes])
    return table(columns, rows)


MEANS = ("energy_ratio", "energy_ratio_with_memory", "spikes_per_neuron", "minutes")


def mean(values: Iterable[str]) -> str:
    """Return the mean of a column's numbers, - where they are missing."""
    numbers = [float(value) for value in values if value]
    return f"{fmean(numbers):.2f}" if numbers else "-"


TABLES: dict[str, Callable[[], str]] = {
    "glance": glance,
    "hoyer-scratch": hoyer_scratch,
    "neurons-cartpole": lambda: neurons("cartpole"),
    "neurons-pong": lambda: neurons("pong"),
    "masked-cartpole": masked,
    "windows-cartpole": windows,
    "export": export,
    "cartpole": lambda: runs("cartpole"),
    "cartpole-state": lambda: runs("cartpole-state"),
    "pong": lambda: runs("pong"),
    "pong-paper": pong_paper,
    "pong-1frame": lambda: runs("pong-1frame"),
    "pong-binary": lambda: runs("pong-binary"),
    "breakout": lambda: runs("breakout"),
    "schedules": schedules,
    "cartpole-paper": paper,
    "convert": foreign,
    "speed": speed,
    "images": lambda: image_tables("3", "4", "5", "pruning", "skip"),
    "images-windows": lambda: image_tables("window"),
    "window-binary": window_binary,
    "images-neurons": lambda: image_tables("neurons", "hoyer"),
    "image-chains": image_chains,
    "image-speed": image_speed,
    "shipped": shipped,
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
