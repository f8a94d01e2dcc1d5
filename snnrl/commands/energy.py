"""``snnrl energy AGENT``: operations and energy of a decision, layer by layer, against the ordinary network's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from snnrl.agents.evaluate import Evaluation, episode_seeds, evaluate, operations
from snnrl.agents.library import Opened, open_agent, open_ordinary, shipped_agents
from snnrl.agents.settings import Device, Percentile, Positive, Seed, Settings, Steps
from snnrl.arguments import parse, positional
from snnrl.display import Display, print_json
from snnrl.energy import Breakdown, LayerOperations, break_down, read_costs
from snnrl.errors import UserError
from snnrl.files import write_atomically
from snnrl.tables import to_csv

MOST_STEPS = 10_000
"""End of an episode, for environments without a limit of their own."""

TOTALS = ("ordinary_multiply_accumulate", "multiply_accumulate", "accumulate")


class EnergyOptions(Settings):
    """Count the operations of an agent's decisions, and what they cost."""

    T: Steps | None = None
    """Timesteps; default: the agent's own. An ordinary agent is converted, untrained."""
    model: str = "paper"
    """Cost table: its name (see snnrl list), or a YAML file."""
    percentile: Percentile | None = None
    """Of the pre-activations, for the thresholds of an ordinary agent that is converted; default: 90."""
    episodes: Positive = 5
    """Greedy episodes, on a sample of whose observations operations are counted."""
    seed: Seed = 0
    """Of the starts."""
    env: str | None = None
    """Gymnasium id or Atari game; default: the environment that the agent was trained in."""
    protocol: Literal["v4", "v5"] | None = None
    """Of an Atari game; default: the one that the agent was trained under."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    csv: Path | None = None
    """Write the table of layers to this file too."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


def energy(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(EnergyOptions, arguments, "energy", "AGENT", shipped_agents())
    options = parse(EnergyOptions, rest, f"energy {name}")
    if options.csv is not None and options.csv.exists():
        raise UserError(f"{options.csv} exists: give another --csv")
    if options.csv is not None and not options.csv.parent.is_dir():
        raise UserError(f"there is no folder {options.csv.parent} for --csv")
    table = read_costs(options.model)
    opened = open_agent(
        name,
        options.env,
        protocol=options.protocol,
        T=options.T,
        percentile=options.percentile,
        device=options.device,
    )
    if opened.agent.T is None:
        raise UserError(f"{name} is an ordinary network: give --T to convert it")
    with Display(options.as_json) as display:
        report = display.stage("energy", 1)
        report(0, "playing")
        seeds = episode_seeds(options.seed, "report", options.episodes)
        found = evaluate(opened.agent, opened.env_id, seeds, env_kwargs=opened.env_kwargs, most_steps=MOST_STEPS)
    ordinary = _ordinary_layers(name, opened, found, options.device)
    broken = break_down(found.layers, ordinary, table)
    title = f"{opened.title}, {opened.source}, T={opened.agent.T}: a decision by the cost table {options.model}"
    _show(display, title, broken)
    display.table(
        "ordinary energy over spiking energy, if one counts",
        ["", "ratio"],
        [[text, "-" if ratio is None else f"{ratio:.2f}"] for text, ratio in broken.what_if.items()],
    )
    if broken.cap is not None:
        display.say(f"No sparsity exceeds {broken.cap:.2f}: the layers with real-valued input stay.")
    if options.csv is not None:
        rows = [list(row.values()) for row in broken.layers]
        write_atomically(options.csv, to_csv(list(broken.layers[0]), rows).encode())
    if options.as_json:
        result = {
            "energy_ratio": broken.ratio,
            "model": options.model,
            "T": opened.agent.T,
            "agent": opened.source,
            "env": opened.env_id,
            **opened.env_kwargs,
            "seed": options.seed,
            "observations": len(found.observations),
            "reward_mean": found.mean,
            **broken._asdict(),
        }
        print_json(result)
    return 0


def _ordinary_layers(name: str, opened: Opened, found: Evaluation, device: str) -> tuple[LayerOperations, ...] | None:
    """Count the ordinary network on the same observations, if there is one beside the agent."""
    ordinary = open_ordinary(name, opened, device)
    if ordinary is None:
        return None
    return operations(ordinary, found.observations)


def _show(display: Display, title: str, broken: Breakdown) -> None:
    """Print the table of layers."""
    rows = broken.layers
    cells = [
        [
            row["layer"],
            "real" if row["input_rate"] is None else f"{row['input_rate']:.3f}",
            "-" if row["rate"] is None else f"{row['rate']:.3f}",
            f"{row['ordinary_multiply_accumulate']:,.0f}",
            f"{row['multiply_accumulate']:,.0f}",
            f"{row['accumulate']:,.0f}",
            f"{row['multiply'] + row['add'] + row['compare']:,.0f}",
            f"{row['ordinary_pJ'] / 1e3:,.1f}",
            f"{row['spiking_pJ'] / 1e3:,.1f}",
        ]
        for row in rows
    ]
    total = ["total", "", "", *(f"{sum(row[kind] for row in rows):,.0f}" for kind in TOTALS)]
    neurons = sum(row["multiply"] + row["add"] + row["compare"] for row in rows)
    total += [f"{neurons:,.0f}", f"{broken.ordinary_pJ / 1e3:,.1f}", f"{broken.spiking_pJ / 1e3:,.1f}"]
    columns = ["layer", "spikes in", "spikes out", "ordinary MAC", "MAC", "AC", "neurons", "ordinary nJ", "spiking nJ"]
    display.table(title, columns, [*cells, total])
    display.say(f"energy ratio {broken.ratio:.2f}")
