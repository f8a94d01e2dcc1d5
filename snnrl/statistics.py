"""Estimates with 95 % intervals, by percentile bootstraps with a fixed seed."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray[Any, np.dtype[np.float64]]

DRAWS = 10_000

AT_A_TIME = 1_000_000
"""Most scores that are drawn before their statistics are taken."""


class Estimate(NamedTuple):
    """A statistic, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def mean_estimate(values: ArrayLike) -> Estimate:
    """Return the mean of values ``(N,)``, drawn N at a time with replacement.

    How often each different value is drawn is multinomial, so ten thousand zeros and ones take no longer than ten.
    """
    array = np.asarray(values, float)
    counts = Counter(array.tolist())  # in the order of their first appearance
    shares = np.fromiter(counts.values(), float) / array.size
    drawn = np.random.default_rng(0).multinomial(array.size, shares, size=DRAWS)
    return _estimate(array.mean(), drawn @ np.fromiter(counts, float) / array.size)


def interquartile_mean(scores: ArrayLike) -> Array:
    """Return the mean of the middle half of the last axis, ``(..., N)`` to ``(...)``.

    A quarter of the values, rounded down, is left out at either end (Agarwal et al. 2021, arXiv 2108.13264).
    """
    ordered = np.sort(np.asarray(scores, float), axis=-1)
    left_out = ordered.shape[-1] // 4
    middle: Array = ordered[..., left_out : ordered.shape[-1] - left_out].mean(axis=-1)
    return middle


def interquartile_estimate(scores: ArrayLike, *, whole_runs: bool) -> Estimate:
    """Return the interquartile mean over all of the scores ``(runs, episodes)``.

    Runs are drawn for every episode anew, which is the stratified bootstrap of arXiv 2108.13264 with episodes for
    strata, or with ``whole_runs`` all episodes of a run together: they share its network, so that this interval tells
    how far another set of runs might lie from this one.
    """
    array = np.asarray(scores, float)
    runs, episodes = array.shape
    random, drawn = np.random.default_rng(0), []
    for count in _portions(array.size):
        picks = random.integers(runs, size=(count, runs, 1 if whole_runs else episodes))
        drawn.append(interquartile_mean(array[picks, np.arange(episodes)].reshape(count, -1)))
    return _estimate(interquartile_mean(array.reshape(-1)), np.concatenate(drawn))


def _portions(scores: int) -> list[int]:
    """Return how many resamples of so many scores are drawn at a time."""
    most = max(AT_A_TIME // scores, 1)
    return [min(most, DRAWS - begin) for begin in range(0, DRAWS, most)]


def _estimate(value: Any, drawn: Array) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
