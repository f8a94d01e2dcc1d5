"""How far the spikes of another program are those of a chain: the same but for currents at the edge of a level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnrl.export.chain import Chain, Floats, currents


@dataclass(frozen=True)
class Agreement:
    """What a program's spikes and Q-values are beside those of a chain."""

    compared: int
    """Neurons, each in every observation."""
    differing: int
    """Of them, those that fired and should not have, or the other way round, or fired more than once."""
    farthest: float
    """Of the currents where they differ: \\|current - level\\| in units of the threshold; 0 if none differs."""
    same: NDArray[np.bool_]
    """``(B,)``: the observations of which no spike differs."""
    q_error: float
    """The largest difference of a Q-value."""


def agreement(
    chain: Chain, observations: NDArray[Any], spikes: Sequence[NDArray[Any]], q_values: NDArray[Any]
) -> Agreement:
    """Compare a program's ``spikes`` of each layer ``(B, ...)`` and ``q_values`` ``(B, K)`` with a chain's, in float64.

    Each layer is given the spikes that the program's layer was given, so that a difference is counted once.
    """
    inputs = chain.observation.real(observations)
    same = np.ones(len(observations), bool)
    compared, farthest, differing = 0, 0.0, 0
    for layer, found in zip(chain.layers[:-1], spikes, strict=True):
        assert layer.firing is not None
        sums = currents(layer, inputs)
        if layer.largest > 1:
            sums = nn.functional.max_pool2d(sums, layer.largest)
        level, unit, flipped = (
            values.reshape(-1, *[1] * (sums.dim() - 2))
            for values in (layer.firing.level, layer.firing.unit, layer.firing.flipped)
        )
        over: Floats = (sums.numpy() - level) / unit
        fired = np.where(flipped, over <= 0, over >= 0)
        other = fired != found
        compared += other.size
        differing += int(other.sum())
        farthest = max(farthest, float(np.abs(over[other]).max(initial=0)))
        same &= ~other.reshape(len(other), -1).any(axis=1)
        inputs = torch.from_numpy(np.ascontiguousarray(found)).double()
    error = np.abs(currents(chain.layers[-1], inputs).numpy() - q_values).max()
    return Agreement(compared, differing, farthest, same, float(error))
