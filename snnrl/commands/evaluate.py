"""``snnrl eval AGENT``: greedy episodes at one T, or reward against T."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from snnrl.agents.evaluate import episode_seeds
from snnrl.agents.evaluate import evaluate as evaluate_agent
from snnrl.agents.library import open_agent, shipped_agents
from snnrl.agents.settings import Device, Percentile, Positive, Seed, Settings, Share, Steps
from snnrl.arguments import parse, positional
from snnrl.commands.evaluate_images import EvalImagesOptions, evaluate_images
from snnrl.commands.images import for_classifier
from snnrl.display import Display, print_json, rates


class EvalOptions(Settings):
    """Play episodes and show reward, spike rates and energy ratio; of a classifier, accuracy: eval FILE --help."""

    T: tuple[Steps, ...] = ()
    """Timesteps, or a list such as 1,2,3,5,100; default: the agent's own. An ordinary agent is converted, untrained."""
    percentile: Percentile | None = None
    """Of the pre-activations, for the thresholds of an ordinary agent that is converted; default: 90."""
    episodes: Positive = 20
    """Episodes per T; every T plays the same starts."""
    seed: Seed = 0
    """Of the starts."""
    env: str | None = None
    """Gymnasium id or Atari game; default: the environment that the agent was trained in."""
    protocol: Literal["v4", "v5"] | None = None
    """Of an Atari game; default: the one that the agent was trained under."""
    epsilon: Share = 0.0
    """Share of random actions; 0 is greedy play."""
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
    if for_classifier(name, rest, EvalOptions, EvalImagesOptions):
        return evaluate_images(name, rest)
    options = parse(EvalOptions, rest, f"eval {name}")
    seeds = episode_seeds(options.seed, "report", options.episodes)
    results: list[dict[str, Any]] = []
    with Display(options.as_json) as display:
        report = display.stage("eval", len(options.T) or 1)
        for done, T in enumerate(options.T or (None,)):
            report(done, f"T={T}" if T else "")
            opened = open_agent(
                name,
                options.env,
                protocol=options.protocol,
                T=T,
                percentile=options.percentile,
                device=options.device,
            )
            opened.agent.policy.carry = options.carry
            evaluation = evaluate_agent(
                opened.agent,
                opened.env_id,
                seeds,
                env_kwargs=opened.env_kwargs,
                most_steps=options.most_steps,
                epsilon=options.epsilon,
            )
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
    kind = f"episodes at epsilon {options.epsilon:g}" if options.epsilon else "greedy episodes"
    title = f"{opened.title}, {options.episodes} {kind} ({evaluation.distinct} different), seed {options.seed}"
    display.table(title, ["T", "reward", "spikes per neuron", "energy ratio", "weights of"], rows)
    if options.as_json:
        asked = {"env": opened.env_id, **opened.env_kwargs, "seed": options.seed, "epsilon": options.epsilon}
        print_json({**results[0], **asked, "results": results})
    return 0
