"""Play greedy episodes from given starts and see what the network does: reward, spike rates, energy."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from stable_baselines3.common.logger import Logger

from snnrl.agents import metrics
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.energy import LayerOperations, count_operations
from snnrl.envs import open_episodes

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"

NO_CHANGES: Mapping[str, Any] = {}

SAMPLE = 256
"""Observations, drawn from all that were met, on which operations are counted."""


FINGERPRINT = np.uint64(0x9E3779B97F4A7C15)
"""Odd: what an episode's fingerprint is multiplied by before the next observation's is added."""


class Actor(Protocol):
    """Whatever chooses actions as SB3's agents do."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray[Any, Any], Any]:
        """Return actions for a batch of observations, and the state."""


@dataclass(frozen=True)
class Evaluation:
    """Episodes played: raw rewards by start, what the network did in them, and its operations."""

    rewards: tuple[float, ...]
    distinct: int
    """How many different episodes these were, going by every observation."""
    activity: metrics.Activity
    layers: tuple[LayerOperations, ...]
    """Operations, counted on the observations."""
    observations: np.ndarray[Any, Any]
    """A sample, uniform over those that were met."""

    @property
    def mean(self) -> float:
        """Mean reward."""
        return float(np.mean(self.rewards))

    @property
    def spike_rate(self) -> dict[str, float]:
        """Spikes per neuron and decision, summed over T, by layer; nothing of the ordinary network."""
        return self.activity.spike_rate

    @property
    def energy_ratio(self) -> float:
        """The ordinary network's energy over this one's."""
        return metrics.ratio(self.activity, self.layers)

    @property
    def std(self) -> float:
        """Standard deviation of the reward over episodes."""
        return float(np.std(self.rewards))

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into a summary."""
        return {
            "reward_mean": self.mean,
            "reward_std": self.std,
            "episodes": len(self.rewards),
            "distinct_episodes": self.distinct,
            "rewards": list(self.rewards),
            "spike_rate": self.spike_rate,
            "energy_ratio": self.energy_ratio,
        }


def episode_seeds(seed: int, purpose: str, episodes: int) -> list[int]:
    """Return one seed per episode; purposes never share seeds, so that what was tuned on is not reported on."""
    stream = {"train": 0, "gate": 1, "report": 2, "play": 3, "disturb": 4}[purpose]
    state = np.random.SeedSequence([seed, stream]).generate_state(episodes)
    return [int(value) for value in state]


def play(
    actor: Actor,
    env_id: str,
    seeds: Sequence[int],
    *,
    env_kwargs: Mapping[str, Any] = NO_CHANGES,
    most_steps: int | None = None,
    epsilon: float = 0.0,
    on_step: Callable[[Sequence[int], np.ndarray[Any, Any]], None] = lambda running, observations: None,
) -> list[float]:
    """Play one episode from every seed, all in one batch; return their rewards in the order of the seeds.

    Actions are greedy, but for a share ``epsilon`` of random ones, drawn from the episode's seed. ``most_steps`` ends
    episodes of environments that have no limit of their own. ``on_step`` sees which episodes are running, and their
    observations ``(episodes still running, ...)``.
    """
    episodes = open_episodes(env_id, len(seeds), env_kwargs)
    generators = [np.random.default_rng(seed) for seed in seeds]
    rewards = np.zeros(len(seeds))
    observations = episodes.reset(seeds)
    running = list(range(len(seeds)))
    state, steps = None, 0
    while running and (most_steps is None or steps < most_steps):
        on_step(running, observations)
        actions, state = actor.predict(observations, state, np.full(len(running), steps == 0), deterministic=True)
        if epsilon:
            actions = actions.copy()
            for row, index in enumerate(running):
                if generators[index].random() < epsilon:
                    actions[row] = generators[index].integers(episodes.actions)
        observations, gained, over = episodes.step(running, actions)
        rewards[running] += gained
        if over.any():
            kept = np.flatnonzero(~over)
            observations = observations[kept]
            if state is not None:
                state = type(state)(tuple(part[kept] for part in state.potentials))
            running = [running[row] for row in kept]
        steps += 1
    episodes.close()
    return [float(reward) for reward in rewards]


def evaluate(
    agent: SpikingDQN,
    env_id: str,
    seeds: Sequence[int],
    *,
    env_kwargs: Mapping[str, Any] = NO_CHANGES,
    most_steps: int | None = None,
    epsilon: float = 0.0,
) -> Evaluation:
    """Play episodes and watch the network in all of its decisions; count operations on a sample of them."""
    seen = Seen(SAMPLE, len(seeds))
    with metrics.watching(agent.q_net) as activity:
        rewards = play(
            agent, env_id, seeds, env_kwargs=env_kwargs, most_steps=most_steps, epsilon=epsilon, on_step=seen.add
        )
    sample = np.stack(seen.sample)
    return Evaluation(tuple(rewards), len(np.unique(seen.fingerprints)), activity, operations(agent, sample), sample)


def operations(agent: SpikingDQN, observations: np.ndarray[Any, Any]) -> tuple[LayerOperations, ...]:
    """Count the operations of the agent's decisions on observations ``(N, ...)``, under the layers' short names."""
    tensor, _ = agent.policy.obs_to_tensor(observations)
    return metrics.short_names(count_operations(agent.q_net, tensor, len(observations)))


class Seen:
    """Keeps ``most`` observations, each that was met being as likely as any other, and a fingerprint of each episode.

    Reservoir sampling (Vitter 1985, Algorithm R).
    """

    def __init__(self, most: int, episodes: int) -> None:
        self.most = most
        self.fingerprints = np.zeros(episodes, np.uint64)
        self.sample: list[np.ndarray[Any, Any]] = []
        self.met = 0
        self.generator = np.random.default_rng(0)

    def add(self, running: Sequence[int], batch: np.ndarray[Any, Any]) -> None:
        """Take the batch's observations into account."""
        self.fingerprints[running] = self.fingerprints[running] * FINGERPRINT + fingerprints(batch)
        free = max(self.most - self.met, 0)
        self.sample += [observation.copy() for observation in batch[:free]]
        self.met += len(batch)
        # of those met so far, the n-th takes the place of one that was kept with the chance most / n
        number = np.arange(self.met - len(batch[free:]), self.met) + 1
        places = self.generator.integers(number)
        for row in np.flatnonzero(places < self.most):
            self.sample[places[row]] = batch[free + row].copy()


def fingerprints(batch: np.ndarray[Any, Any]) -> Numbers:
    """Return a number for each observation ``(B, ...)``, equal for equal ones and hardly ever for others.

    Sum of its 64-bit words times random odd numbers, modulo 2^64 (multilinear hashing).
    """
    data = np.ascontiguousarray(batch).reshape(len(batch), -1).view(np.uint8)
    if missing := -data.shape[1] % 8:
        data = np.pad(data, ((0, 0), (0, missing)))
    words = data.view(np.uint64)
    found: Numbers = (words * _odd_numbers(words.shape[1])).sum(1, dtype=np.uint64)
    return found


@functools.cache
def _odd_numbers(count: int) -> Numbers:
    found: Numbers = np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64) | np.uint64(1)
    return found


def record(logger: Logger, group: str, evaluation: Evaluation) -> None:
    """Hand reward and what the network did to SB3's logger (TensorBoard, CSV)."""
    logger.record(f"{group}/reward", evaluation.mean)
    metrics.record(logger, group, evaluation.activity, evaluation.layers)


def mean_rate(spike_rate: dict[str, float]) -> str:
    """Return the layers' mean spike rate as a note for a progress bar; nothing for the ordinary network."""
    return f", {np.mean(list(spike_rate.values())):.2f} spikes per neuron" if spike_rate else ""
