"""The schedule of T, by hand and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrl.errors import UserError
from snnrl.reduction import Attempt, best_attempt, check_schedule, gate_passed, next_stage, schedule


@pytest.mark.parametrize(
    ("first", "last", "step", "expected"),
    [(5, 1, 2, (5, 3, 1)), (5, 1, 1, (5, 4, 3, 2, 1)), (5, 1, 3, (5, 2, 1)), (4, 4, 2, (4,)), (1, 1, 1, (1,))],
)
def test_schedule(first: int, last: int, step: int, expected: tuple[int, ...]) -> None:
    assert schedule(first, last, step) == expected


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60))
def test_schedules_fall_from_first_to_last(first: int, last: int, step: int) -> None:
    if last > first:
        with pytest.raises(UserError):
            schedule(first, last, step)
        return
    steps = schedule(first, last, step)
    check_schedule(steps)
    assert (steps[0], steps[-1]) == (first, last)


@pytest.mark.parametrize("steps", [(), (5, 5, 1), (1, 3), (3, 0)])
def test_bad_schedules(steps: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="fall strictly"):
        check_schedule(steps)


def follow(steps: tuple[int, ...], passes: dict[int, list[bool]]) -> list[int]:
    """Play a whole run; ``passes[T]`` lists the outcomes of the tries at T (default: passed)."""
    done: list[Attempt] = []
    while (T := next_stage(steps, done)) is not None:
        tries = sum(attempt.T == T for attempt in done)
        outcomes = passes.get(T, [])
        passed = outcomes[tries] if tries < len(outcomes) else True
        done.append(Attempt(f"T{T}", T, 1.0, passed))
        assert len(done) < 50, "never ends"
    return [attempt.T for attempt in done]


def test_all_stages_pass() -> None:
    assert follow((5, 3, 1), {}) == [5, 3, 1]


def test_a_missed_gate_inserts_a_stage_and_tries_again() -> None:
    assert follow((5, 1), {1: [False]}) == [5, 1, 3, 1]
    assert follow((5, 3, 1), {1: [False]}) == [5, 3, 1, 2, 1]
    assert follow((5, 3, 1), {3: [False]}) == [5, 3, 4, 3, 1]


def test_the_second_miss_is_kept() -> None:
    assert follow((5, 3, 1), {1: [False, False]}) == [5, 3, 1, 2, 1]
    assert follow((5, 3, 1), {3: [False, False]}) == [5, 3, 4, 3, 1]


def test_nothing_lies_between() -> None:
    assert follow((2, 1), {1: [False]}) == [2, 1]
    assert follow((5, 3, 1), {5: [False]}) == [5, 3, 1]


@given(
    st.integers(1, 9).flatmap(lambda first: st.tuples(st.just(first), st.integers(1, first))),
    st.integers(1, 4),
    st.dictionaries(st.integers(1, 9), st.lists(st.booleans(), max_size=3)),
)
def test_every_run_ends_at_its_target(ends: tuple[int, int], step: int, passes: dict[int, list[bool]]) -> None:
    steps = schedule(*ends, step)
    order = follow(steps, passes)
    assert set(steps) <= set(order)
    assert min(order) == ends[1]
    assert all(order.count(T) <= 2 for T in order)


def test_the_better_of_two_tries_is_kept() -> None:
    done = [Attempt("T1", 1, 10.0, False), Attempt("T2", 2, 99.0, True), Attempt("T1-again", 1, 20.0, False)]
    assert best_attempt(done, 1).name == "T1-again"
    done[2] = Attempt("T1-again", 1, 10.0, False)
    assert best_attempt(done, 1).name == "T1"


def test_gate() -> None:
    assert gate_passed(490.0, 500.0, 0.02)
    assert not gate_passed(489.9, 500.0, 0.02)
    assert gate_passed(-10.4, -10.0, 0.05)
    assert not gate_passed(-10.6, -10.0, 0.05)
