"""Lowering T stage by stage: which T comes next, and what to do when a stage falls short. Pure functions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from snnrl.errors import UserError

MOST_STEPS = 1000
"""Largest T accepted, so that a mistyped or hostile number cannot exhaust the memory."""


class Attempt(NamedTuple):
    """A finished stage: its timesteps, its reward or accuracy at the gate, and whether it was within the tolerance."""

    name: str
    T: int
    score: float
    passed: bool


def schedule(first: int, last: int, step: int) -> tuple[int, ...]:
    """Return first, first - step, ..., last; the final step may be shorter.

    Raises:
        UserError: the numbers do not describe a descent to at least one timestep.
    """
    if not 1 <= last <= first:
        raise UserError(f"cannot reduce from T={first} to {last}: give 1 <= reduce-to <= T")
    if step < 1:
        raise UserError(f"step must be at least 1, not {step}")
    return (*range(first, last, -step), last)


def check_schedule(steps: Sequence[int]) -> None:
    """Check a list of T given by hand.

    Raises:
        UserError: it is empty, does not fall strictly, or goes below 1.
    """
    if not steps or steps[-1] < 1 or any(a <= b for a, b in pairwise(steps)):
        given = ",".join(map(str, steps))
        raise UserError(f"the schedule {given} must fall strictly, down to at least 1, such as 5,3,1")


def next_stage(steps: Sequence[int], done: Sequence[Attempt]) -> int | None:
    """Return the T of the next stage, or None when there is nothing left to do.

    Stages follow the schedule. After a stage that missed its gate, a T halfway up to the stage before it is inserted,
    and the missed T tried once more from there; where no T lies between, or the second try misses as well, the
    better agent is kept and the schedule goes on.
    """
    reached = {attempt.T for attempt in done}
    if done and not done[-1].passed:
        missed = done[-1].T
        tries = [attempt for attempt in done if missed == attempt.T]
        above = min((T for T in reached if missed < T), default=missed)
        between = (above + missed) // 2
        if len(tries) == 1 and missed in steps and missed < between < above:
            return between
    for T in steps:
        tries = [attempt for attempt in done if attempt.T == T]
        if not tries:
            return T
        helped = any(attempt.T > T for attempt in done[done.index(tries[0]) + 1 :])
        if len(tries) == 1 and not tries[0].passed and helped:
            return T
    return None


def best_attempt(done: Sequence[Attempt], T: int) -> Attempt:
    """Return the attempt at ``T`` with the highest score, the earlier one of equals."""
    return max((attempt for attempt in done if attempt.T == T), key=lambda attempt: attempt.score)


def gate_passed(score: float, teacher: float, tolerance: float) -> bool:
    """Say whether ``score`` is at most ``tolerance`` (a share of the teacher's |score|) below the teacher's."""
    return score >= teacher - tolerance * abs(teacher)
