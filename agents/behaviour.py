"""What the agents of a run do on the same observations: actions, operations, spikes."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from snnrl.agents.evaluate import episode_seeds, evaluate, operations
from snnrl.agents.library import Opened
from snnrl.agents.metrics import layer_name
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.energy import Breakdown, LayerOperations, break_down, read_costs
from snnrl.envs import action_names, games, make
from snnrl.networks import neurons_of
from snnrl.report.data import Behaviour, Sample

EPISODES = 2

MOST_STEPS = 1_000
"""Of each episode, if the run allows as many: what a report may cost is bounded."""

SAMPLES = 4

BATCH = 32
"""Observations that are decided on at a time."""


def observe(agents: Mapping[str, Opened], seed: int, most_steps: int | None = None) -> Behaviour:
    """Let the first of a run's agents play greedily, and all of them decide on what it saw."""
    most_steps = min(most_steps or MOST_STEPS, MOST_STEPS)
    (first, player), *_ = agents.items()
    last = list(agents.values())[-1]
    seeds = episode_seeds(seed, "report", EPISODES)
    seen = evaluate(
        player.agent, player.env_id, seeds, env_kwargs=player.env_kwargs, most_steps=most_steps
    ).observations
    counted = {name: operations(one.agent, seen) for name, one in agents.items()}
    spiking = [name for name, one in agents.items() if one.agent.T is not None]
    actions = {name: actions_of(one.agent, seen) for name, one in agents.items()}
    with contextlib.closing(make(last.env_id, **last.env_kwargs)) as env:
        names = action_names(env)
    chosen = {name: [names[action] for action in row] for name, row in actions.items()}
    layer, samples = ("", ()) if last.agent.T is None else samples_of(last, seen, chosen)
    return Behaviour(
        f"{len(seen)} observations, drawn at random from {EPISODES} greedy episodes of {first}, of at most "
        f"{most_steps} decisions each.",
        layer,
        actions,
        names,
        price_spiking(counted, spiking),
        samples,
    )


def samples_of(
    opened: Opened, seen: np.ndarray[Any, Any], chosen: Mapping[str, Sequence[str]]
) -> tuple[str, tuple[Sample, ...]]:
    """Return the name of a spiking agent's first layer, and its spikes on some observations; ``chosen``: by all."""
    rows = sample_rows(len(seen))
    layer, spikes = first_spikes(opened.agent.q_net, lambda: opened.agent.predict(seen[rows], deterministic=True))
    return layer, as_shown(rows, pictures(seen[rows], opened.env_id in games()), spikes, chosen)


def sample_rows(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the places of the observations that are shown of so many."""
    return ((np.arange(SAMPLES) + 0.5) * count / SAMPLES).astype(np.int64)


def as_shown(
    rows: Sequence[int] | np.ndarray[Any, Any],
    pictures: np.ndarray[Any, Any],
    spikes: np.ndarray[Any, Any],
    chosen: Mapping[str, Sequence[str]],
) -> tuple[Sample, ...]:
    """Return samples of the observations at these ``rows``; ``chosen``: what each network chose on all of them."""
    return tuple(
        Sample(picture, sent, {name: actions[row] for name, actions in chosen.items()})
        for row, picture, sent in zip(rows, pictures, spikes, strict=True)
    )


def price_spiking(counted: Mapping[str, Sequence[LayerOperations]], spiking: Sequence[str]) -> dict[str, Breakdown]:
    """Return what a decision of each ``spiking`` network costs, against the ordinary one if that comes first."""
    first = next(iter(counted))
    ordinary = None if first in spiking else counted[first]
    table = read_costs("paper")
    return {name: break_down(counted[name], ordinary, table) for name in spiking}


def actions_of(agent: SpikingDQN, observations: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the greedy action on each observation ``(N, ...)``."""
    batches = np.array_split(observations, -(-len(observations) // BATCH))
    return np.concatenate([agent.predict(batch, deterministic=True)[0] for batch in batches])


def first_spikes(network: nn.Module, decide: Callable[[], object]) -> tuple[str, np.ndarray[Any, Any]]:
    """Return the first spiking layer's name and its spikes in the decisions that ``decide`` makes, summed over T."""
    name, neuron = next(iter(neurons_of(network).items()))
    sent: list[Any] = []
    handle = neuron.register_forward_hook(lambda _, inputs, output: sent.append(output.detach().cpu().numpy()))
    decide()
    handle.remove()
    return layer_name(name), sent[0].reshape(neuron.steps, -1, *sent[0].shape[1:]).sum(0)


def pictures(observations: np.ndarray[Any, Any], frames: bool) -> np.ndarray[Any, Any]:
    """Return images as pictures of bytes ``(N, H, W)`` or ``(N, H, W, 3)``; vectors as they are.

    ``frames``: the channels are frames, whose newest, the last one, is shown; so it is for all but three channels.
    """
    if observations.ndim != 4:
        return observations.reshape(len(observations), -1)
    if observations.shape[1] < observations.shape[3]:
        observations = observations.transpose(0, 2, 3, 1)
    if observations.dtype != np.uint8:
        low, high = observations.min(), observations.max()
        observations = (255 * (observations - low) / max(high - low, 1e-9)).astype(np.uint8)
    return observations if observations.shape[3] == 3 and not frames else observations[..., -1]
