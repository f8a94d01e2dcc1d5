"""``snnrl robustness AGENT``: reward against disturbances, the ordinary network beside the spiking one at T = 1."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from snnrl.agents.library import open_agent, open_ordinary, shipped_agents
from snnrl.agents.robustness import LEVELS, Disturbance, Kind, Trials
from snnrl.agents.settings import Device, Positive, Seed, Settings
from snnrl.arguments import parse, positional
from snnrl.commands.energy import MOST_STEPS
from snnrl.commands.pricing import check_csv
from snnrl.display import Display, print_json
from snnrl.files import write_atomically
from snnrl.statistics import Estimate, mean_estimate
from snnrl.tables import to_csv


class RobustnessOptions(Settings):
    """Play episodes under disturbances, at T = 1; an ordinary agent is converted, untrained."""

    kinds: tuple[Kind, ...] = tuple(LEVELS)
    """noise of observations, spikes (or activations) that are dropped, flips of bits of weights, their precision."""
    episodes: Positive = 20
    """Greedy episodes per network and disturbance, from the same starts."""
    seed: Seed = 0
    """Of the starts, and of everything that is drawn."""
    env: str | None = None
    """Gymnasium id or Atari game; default: the environment that the agent was trained in."""
    protocol: Literal["v4", "v5"] | None = None
    """Of an Atari game; default: the one that the agent was trained under."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    csv: Path | None = None
    """Write the table to this file too."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


def robustness(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(RobustnessOptions, arguments, "robustness", "AGENT", shipped_agents())
    options = parse(RobustnessOptions, rest, f"robustness {name}")
    check_csv(options.csv)
    opened = open_agent(name, options.env, protocol=options.protocol, T=1, device=options.device)
    ordinary = open_ordinary(name, opened, options.device)
    agents = {"spiking": opened.agent} if ordinary is None else {"ordinary": ordinary, "spiking": opened.agent}
    trials = Trials(opened, options.seed, options.episodes, MOST_STEPS)
    disturbances = trials.disturbances(options.kinds)
    lines: list[Line] = []
    with Display(options.as_json) as display:
        report = display.stage("play", len(disturbances))
        for done, disturbance in enumerate(disturbances):
            report(done, describe(disturbance, trials.unit))
            lines.append(Line(disturbance, {key: trials.rewards(agent, disturbance) for key, agent in agents.items()}))
    display.table(
        f"{opened.title}, {opened.source}, {options.episodes} greedy episodes, seed {options.seed}: mean, 95 %",
        ["", *("T = 1" if network == "spiking" else network for network in agents)],
        [[describe(line.disturbance, trials.unit), *map(shown, line.estimates.values())] for line in lines],
    )
    if options.csv is not None:
        columns = [f"{network}{end}" for network in agents for end in ("", "_low", "_high")]
        rows = [[*line.disturbance, *chain.from_iterable(line.estimates.values())] for line in lines]
        write_atomically(options.csv, to_csv(["kind", "level", *columns], rows).encode())
    if options.as_json:
        result = {
            "agent": opened.source,
            "T": opened.agent.T,
            "env": opened.env_id,
            **opened.env_kwargs,
            "seed": options.seed,
            "episodes": options.episodes,
            "noise_unit": trials.unit,
            "results": [line.as_dict() for line in lines],
        }
        print_json(result)
    return 0


class Line(NamedTuple):
    """The rewards of each network under a disturbance."""

    disturbance: Disturbance
    rewards: Mapping[str, list[float]]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The mean reward of each network."""
        return {network: mean_estimate(rewards) for network, rewards in self.rewards.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        networks = {
            network: {"reward_mean": mean, "reward_low": low, "reward_high": high, "rewards": self.rewards[network]}
            for network, (mean, low, high) in self.estimates.items()
        }
        return {**self.disturbance._asdict(), **networks}


def describe(disturbance: Disturbance, unit: str) -> str:
    """Return a disturbance in words; ``unit`` is that of noise."""
    kind, level = disturbance
    texts = {
        "none": "undisturbed",
        "noise": f"noise: {level:g} {unit}",
        "spikes": f"{100 * level:g} % of spikes dropped",
        "flips": f"{100 * level:g} % of bits flipped",
        "precision": f"weights of {level:g} bits",
    }
    return texts[kind]


def shown(estimate: Estimate) -> str:
    """Return a mean with its interval."""
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
