"""Prioritized replay: transitions that surprised the network come back more often (Schaul et al. 2016)."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from snnrl.agents.frame_replay import FrameReplayBuffer, Index

IMPORTANCE_EXPONENT = 0.4
"""Beta: how far the loss makes up for drawing some transitions more often; where it begins in arXiv 1511.05952."""

SMALLEST_ERROR = 1e-6
"""Added to every error, so that no transition is lost (arXiv 1511.05952, Sec. 3.3)."""


class PrioritizedSamples(NamedTuple):
    """SB3's ``ReplayBufferSamples`` with importance ``weights`` ``(B, 1)`` and the ``places`` that they came from."""

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    dones: Tensor
    rewards: Tensor
    discounts: Tensor | None
    weights: Tensor
    places: Index


class PrioritizedReplayBuffer(FrameReplayBuffer):
    """A :class:`FrameReplayBuffer` that draws a transition in proportion to ``|TD error| ** exponent``.

    Its loss is weighted with (N P(i))^-beta, relative to the largest in the batch; a new transition counts as much as
    the largest so far. Source: arXiv 1511.05952, Eq. 1 and Sec. 3.4; the draws are not stratified.

    Args:
        exponent: alpha; 0 draws uniformly.
    """

    def __init__(self, *args: Any, exponent: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.exponent = exponent
        self.priorities = np.zeros((self.buffer_size, self.n_envs))
        """Of each row and environment; 0 where there is no transition to draw."""
        self.largest = 1.0

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store one step of every environment."""
        self.priorities[self.pos] = self.largest
        self.priorities[(self.pos + self.stack) % self.buffer_size] = 0  # has lost a frame to the newest
        super().add(*args, **kwargs)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> PrioritizedSamples:  # type: ignore[override]
        """Draw transitions by priority, with numpy's global generator as SB3 does."""
        cumulative = self.priorities.cumsum()
        places = cumulative.searchsorted(np.random.random(batch_size) * cumulative[-1], side="right")  # noqa: NPY002
        places = places.clip(max=cumulative.size - 1)
        chances: NDArray[np.float64] = self.priorities.reshape(-1)[places] / cumulative[-1]
        weights = (np.count_nonzero(self.priorities) * chances) ** -IMPORTANCE_EXPONENT
        rows, envs = np.divmod(places, self.n_envs)
        batch = self.at(rows, envs, env)
        weighted = self.to_torch((weights / weights.max()).astype(np.float32)[:, None])
        return PrioritizedSamples(*batch, weighted, places)

    def learned(self, places: Index, errors: Tensor) -> None:
        """Take note of the TD errors ``(B, 1)`` of a batch."""
        priorities = (errors.abs().double().cpu().numpy().reshape(-1) + SMALLEST_ERROR) ** self.exponent
        alive = self.priorities.reshape(-1)[places] > 0
        self.priorities.reshape(-1)[places[alive]] = priorities[alive]
        self.largest = max(self.largest, float(priorities.max()))

    def state(self) -> dict[str, Tensor]:
        """Return what changes in rows that were stored long ago, for a checkpoint."""
        return {"priorities": torch.from_numpy(self.priorities), "largest": torch.tensor(self.largest).double()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        self.priorities[:] = state["priorities"].numpy()
        self.largest = float(state["largest"])
