"""Estimates: by hand, by their properties, and against the rliable package."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnrl.statistics import interquartile_estimate, interquartile_mean, mean_estimate


def test_mean_by_hand() -> None:
    mean, low, high = mean_estimate([2.0, 0.0, 1.0, 1.0])
    assert mean == (2 + 0 + 1 + 1) / 4
    assert 0 <= low < mean < high <= 2
    assert mean_estimate([1.0, 1.0]) == (1.0, 1.0, 1.0)


@settings(max_examples=20)
@given(st.lists(st.integers(-500, 500), min_size=1, max_size=12))
def test_the_interval_holds_the_mean(values: list[int]) -> None:
    mean, low, high = mean_estimate(values)
    assert mean == pytest.approx(np.mean(values))
    slack = 0.2 * float(np.ptp(values)) + 1e-9
    assert low - slack <= mean <= high + slack
    assert mean_estimate([-value for value in values]) == pytest.approx((-mean, -high, -low))


def test_interquartile_mean_by_hand() -> None:
    assert interquartile_mean([9, 1, 2, 3, 4, 100, 5, -50]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1, 2, 6]) == 3
    assert interquartile_mean([[0, 4, 8, 100], [1, 1, 1, 1]]).tolist() == [6, 1]


# rliable 1.2.0: get_interval_estimates(scores, aggregate_iqm, reps=50000, random_state=RandomState(0)) on these scores
RANDOM = np.random.default_rng(7)
SCORES = 100 + 30 * RANDOM.standard_normal((5, 1)) + 10 * RANDOM.standard_normal((5, 20))
GOLDEN = [
    (SCORES, 91.03214404, 87.85489356, 94.10422055),
    (SCORES[:, :1], 80.54802054, 72.61992508, 101.43551747),
    (SCORES[:3, :7], 99.29866106, 94.08291304, 103.68197076),
]


@pytest.mark.parametrize(("scores", "value", "low", "high"), GOLDEN, ids=["5x20", "5x1", "3x7"])
def test_as_rliable(scores: np.ndarray, value: float, low: float, high: float) -> None:
    estimate = interquartile_estimate(scores, whole_runs=False)
    assert estimate.value == pytest.approx(value, abs=1e-7)
    assert estimate.low == pytest.approx(low, abs=0.15)  # another generator, fewer draws
    assert estimate.high == pytest.approx(high, abs=0.15)


def test_whole_runs_are_wider_where_runs_differ() -> None:
    stratified, whole = (interquartile_estimate(SCORES, whole_runs=choice) for choice in (False, True))
    assert whole.value == stratified.value
    assert whole.low < stratified.low
    assert whole.high > stratified.high
    alike = interquartile_estimate(SCORES[:, :1], whole_runs=True)
    assert alike == interquartile_estimate(SCORES[:, :1], whole_runs=False)


def test_many_zeros_and_ones() -> None:
    mean, low, high = mean_estimate([0.0] * 1000 + [1.0] * 9000)
    assert mean == 0.9
    half = 1.96 * (0.9 * 0.1 / 10_000) ** 0.5
    assert (low, high) == (pytest.approx(0.9 - half, abs=2e-4), pytest.approx(0.9 + half, abs=2e-4))
