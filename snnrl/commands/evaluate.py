"""``snnrl eval AGENT``: greedy episodes at one T, or reward against T."""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from snnrl.agents.evaluate import episode_seeds
from snnrl.agents.evaluate import evaluate as evaluate_agent
from snnrl.agents.library import open_agent, shipped_agents
from snnrl.agents.spiking_dqn.config import Device, Positive, Seed, Settings, Steps
from snnrl.arguments import parse, positional
from snnrl.display import Display, print_json, rates


class EvalOptions(Settings):
    """Play greedy episodes and show reward, spike rates and energy ratio."""

    T: tuple[Steps, ...] = ()
    """Timesteps, or a list such as 1,2,3,5,100; default: the agent's own."""
    episodes: Positive = 20
    """Episodes per T; every T plays the same starts."""
    seed: Seed = 0
    """Of the starts."""
    env: str | None = None
    """Gymnasium id; default: the environment that the agent was trained in."""
    most_steps: Positive | None = None
    """End of an episode, for environments without a limit of their own."""
    carry: bool = False
    """Let potentials pass from one decision to the next; they are reset with the episode."""
    device: Device = "auto"
    """cpu, cuda, or auto."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the figures as one JSON object on the last line of stdout."""


def evaluate(arguments: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    name, rest = positional(EvalOptions, arguments, "eval", "AGENT", shipped_agents())
    options = parse(EvalOptions, rest, f"eval {name}")
    seeds = episode_seeds(options.seed, "report", options.episodes)
    results: list[dict[str, Any]] = []
    with Display(options.as_json) as display:
        report = display.stage("eval", len(options.T) or 1)
        for done, T in enumerate(options.T or (None,)):
            report(done, f"T={T}" if T else "")
            opened = open_agent(name, options.env, T=T, device=options.device)
            opened.agent.policy.carry = options.carry
            evaluation = evaluate_agent(opened.agent, opened.env_id, seeds, most_steps=options.most_steps)
            results.append({"T": opened.agent.T, "agent": opened.source} | evaluation.as_dict())
            display.say(f"T={opened.agent.T}: {evaluation.mean:.1f} +- {evaluation.std:.1f}")
    rows = [
        [
            result["T"] or "ann",
            f"{result['reward_mean']:.1f} +- {result['reward_std']:.1f}",
            rates(result["spike_rate"]),
            f"{result['energy_ratio']:.2f}",
            result["agent"],
        ]
        for result in results
    ]
    title = f"{opened.env_id}, {options.episodes} greedy episodes, seed {options.seed}"
    display.table(title, ["T", "reward", "spikes per neuron", "energy ratio", "weights of"], rows)
    if options.as_json:
        print_json({**results[0], "env": opened.env_id, "seed": options.seed, "results": results})
    return 0
