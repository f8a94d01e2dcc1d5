"""``snnrl energy AGENT``: operations and energy of a decision, layer by layer, against the ordinary network's."""

from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from snnrl.agents.evaluate import Evaluation, episode_seeds, evaluate, operations
from snnrl.agents.library import Opened, open_agent, open_ordinary, shipped_agents
from snnrl.agents.settings import Device, Percentile, Positive, Seed
from snnrl.arguments import parse, positional
from snnrl.commands.energy_images import EnergyImagesOptions, energy_images
from snnrl.commands.images import for_classifier
from snnrl.commands.pricing import PricingOptions, check_csv, show
from snnrl.display import Display, print_json
from snnrl.energy import LayerOperations, break_down, read_costs
from snnrl.errors import UserError

MOST_STEPS = 10_000
"""End of an episode, for environments without a limit of their own."""


class EnergyOptions(PricingOptions):
    """Count the operations of an agent's decisions, and what they cost; those of a classifier: energy FILE --help."""

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
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


def energy(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(EnergyOptions, arguments, "energy", "AGENT", shipped_agents())
    if for_classifier(name, rest, EnergyOptions, EnergyImagesOptions):
        return energy_images(name, rest)
    options = parse(EnergyOptions, rest, f"energy {name}")
    check_csv(options.csv)
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
    show(display, title, broken, options)
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
