"""Play the same starts under one disturbance after another: noise, lost spikes, flipped bits, few bits."""

import functools
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from snnrl.agents.evaluate import SAMPLE, Actor, Seen, episode_seeds, play
from snnrl.agents.library import Opened
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.errors import UserError
from snnrl.robustness import dropped, flipped, rounded

Array = np.ndarray[Any, Any]
Kind = Literal["noise", "spikes", "flips", "precision"]

NOISE_OF_BYTES = (5, 10, 20, 40, 80)
"""Standard deviations in grey levels."""
LEVELS: Mapping[Kind, tuple[float, ...]] = {
    "noise": (0.1, 0.2, 0.5, 1, 2),
    "spikes": (0.01, 0.05, 0.1, 0.2, 0.5),
    "flips": (0.0001, 0.001, 0.003, 0.01, 0.03),
    "precision": (8, 6, 4, 3, 2),
}
"""Of each kind: noise in standard deviations of an entry (bytes have :data:`NOISE_OF_BYTES`), probabilities, bits."""


class Disturbance(NamedTuple):
    """What episodes are played under; of the kind ``none`` nothing is disturbed."""

    kind: Kind | Literal["none"]
    level: float


class Trials:
    """Greedy episodes that every network plays under every disturbance, from the same starts and with the same draws.

    ``opened``: whose environment is played, and whose play noise is relative to.
    """

    def __init__(self, opened: Opened, seed: int, episodes: int, most_steps: int | None = None) -> None:
        self.opened = opened
        self.play = functools.partial(play, env_id=opened.env_id, env_kwargs=opened.env_kwargs, most_steps=most_steps)
        self.starts = episode_seeds(seed, "report", episodes)
        self.draws = episode_seeds(seed, "disturb", episodes)
        self.dtype = np.dtype(opened.agent.observation_space.dtype)

    @property
    def unit(self) -> str:
        """What levels of noise are counted in."""
        return "grey levels" if self.dtype == np.uint8 else "standard deviations"

    @functools.cached_property
    def spread(self) -> float | Array:
        """Noise of level 1: one grey level, or each entry's standard deviation in undisturbed play, from a sample."""
        if self.dtype == np.uint8:
            return 1.0
        seen = Seen(SAMPLE, len(self.starts))
        self.play(self.opened.agent, seeds=self.starts, on_step=seen.add)
        deviations: Array = np.stack(seen.sample).std(0)
        return deviations

    def disturbances(self, kinds: Collection[Kind]) -> list[Disturbance]:
        """Return none and then every level of these kinds, in the order of :data:`LEVELS`.

        Raises:
            UserError: noise is asked for, and observations are whole numbers but not bytes.
        """
        levels = dict(LEVELS)
        if self.dtype == np.uint8:
            levels["noise"] = NOISE_OF_BYTES
        elif "noise" in kinds and not np.issubdtype(self.dtype, np.floating):
            raise UserError(
                f"{self.opened.env_id} gives observations of {self.dtype}, which have no noise: leave it out of --kinds"
            )
        return [
            Disturbance("none", 0),
            *(Disturbance(kind, level) for kind, of_kind in levels.items() if kind in kinds for level in of_kind),
        ]

    def rewards(self, agent: SpikingDQN, disturbance: Disturbance) -> list[float]:
        """Return the rewards of an agent's episodes, in the order of the starts.

        Bits flip anew for every episode, so that the spread over episodes is also that over flips.
        """
        kind, level = disturbance
        if kind == "noise":
            noisy = Noisy(agent, level * self.spread, np.random.default_rng(self.draws))
            return self.play(noisy, seeds=self.starts)
        if kind == "spikes":
            with dropped(agent.q_net, level, torch.Generator().manual_seed(self.draws[0])):
                return self.play(agent, seeds=self.starts)
        if kind == "flips":
            found = []
            for start, draw in zip(self.starts, self.draws, strict=True):
                with flipped(agent.q_net, level, torch.Generator().manual_seed(draw)):
                    found += self.play(agent, seeds=[start])
            return found
        if kind == "precision":
            with rounded(agent.q_net, int(level)):
                return self.play(agent, seeds=self.starts)
        return self.play(agent, seeds=self.starts)


class Noisy:
    """An actor that sees observations with Gaussian noise; bytes are rounded, and stay within 0 to 255.

    ``sigma``: its standard deviation, one number or one for each entry of an observation.
    """

    def __init__(self, actor: Actor, sigma: float | Array, generator: np.random.Generator) -> None:
        self.actor = actor
        self.sigma = sigma
        self.generator = generator

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, Any]:
        """Return the actor's actions, and its state."""
        noisy = observation + self.sigma * self.generator.standard_normal(observation.shape, np.float32)
        if observation.dtype == np.uint8:
            noisy = noisy.round().clip(0, 255)
        return self.actor.predict(noisy.astype(observation.dtype), state, episode_start, deterministic)
