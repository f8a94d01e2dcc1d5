"""What a report is drawn from; it knows nothing of agents, so that whatever learns in stages can be reported on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snnrl.energy import Breakdown
from snnrl.logs import Log
from snnrl.statistics import Estimate, mean_estimate

Rates = Mapping[str, float]
"""Spikes per neuron and decision, summed over T, by layer."""


def layers_in_order(names: Iterable[str]) -> list[str]:
    """Return names of layers as they are counted, conv2 before conv10: stored results have them by the alphabet."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


@dataclass(frozen=True)
class Measure:
    """What a stage is judged by, and how it is spoken of."""

    key: str
    """Of a stored result."""
    tests: str
    """What it is the mean over."""
    form: str
    """How it is written."""
    tested: str
    """Where it was measured, to stand behind a noun."""
    conditions: str
    """The same as a sentence."""
    single: str
    """What a figure shows of single tests, as sentences."""
    choice: str
    """What is to be said of equal choices, behind a semicolon."""


MEASURES = {
    "reward": Measure(
        "reward_mean",
        "episodes",
        ".1f",
        "in the reported play",
        "Greedy play on starts that neither training nor gate has seen, the same for every stage.",
        "Coloured: episodes. The mark is their mean, its bar the 95 % bootstrap interval over them: how sure the mean "
        "of this network is, not how other seeds would train. Without a spread among episodes it has no width.",
        "actions that a game treats alike are two.",
    ),
    "accuracy": Measure(
        "accuracy",
        "test images",
        ".2%",
        "on the test images",
        "Share of the test images that are named rightly; neither training nor gate has seen them.",
        "The mark is the share of the test images that are named rightly, its bar the 95 % bootstrap interval over "
        "them: how sure the accuracy of this network is, not how other seeds would train.",
        "with the truth: the accuracy on them.",
    ),
}


@dataclass(frozen=True)
class Stage:
    """A finished stage."""

    name: str
    T: int | None
    """Timesteps; None for the ordinary network."""
    score: float
    """Reward or accuracy."""
    scores: tuple[float, ...]
    """By test, for an image 1 if it was named rightly, else 0; empty where only their mean is known."""
    different: int | None
    """How many of the episodes differ in what was seen."""
    spike_rate: Rates
    before: Rates | None
    """At the start, before the stage's own training; None where it is not told."""
    energy_ratio: float
    minutes: float
    passed: bool
    """Whether the gate was met."""
    start: str
    """Where its weights come from; empty where it is not told."""
    trained: bool
    """Whether it was trained at all: a start that passes the gate is kept as it is."""

    @property
    def label(self) -> str:
        """Its T as the text of an axis, and its name where that tells more."""
        if self.T is None:
            return "ordinary"
        return f"T = {self.T}" if self.name.startswith(f"T{self.T}") else f"{self.name}, T = {self.T}"

    @property
    def mean_rate(self) -> float | None:
        """Mean spike rate of the layers; None for the ordinary network."""
        return float(np.mean(list(self.spike_rate.values()))) if self.spike_rate else None

    @property
    def estimate(self) -> Estimate:
        """The mean score with its interval over tests; where they are not known there is none, and it is a point."""
        return mean_estimate(self.scores) if self.scores else Estimate(self.score, self.score, self.score)


def read_stage(result: Mapping[str, Any], measure: str) -> Stage:
    """Return a stage from its stored result.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is not as a run stores it.
    """
    before = result.get("before")
    return Stage(
        str(result["name"]),
        None if result["T"] is None else int(result["T"]),
        float(result[MEASURES[measure].key]),
        tuple(float(score) for score in result.get("rewards", right_or_wrong(result))),
        result.get("distinct_episodes"),
        _rates(result["spike_rate"]),
        None if before is None else _rates(before["spike_rate"]),
        float(result["energy_ratio"]),
        float(result["minutes"]),
        bool(result["gate_passed"]),
        str(result.get("start", "")),
        bool(result.get("rounds", 1)),
    )


def right_or_wrong(result: Mapping[str, Any]) -> list[float]:
    """Return 1 for each test image that was named rightly, else 0; nothing where a result does not tell."""
    right = np.ones(result.get("images", 0))
    right[result.get("wrong", [])] = 0
    return [float(value) for value in right]


def _rates(rates: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(rate) for name, rate in rates.items()}


@dataclass(frozen=True)
class Run:
    """A run, as its folder tells it."""

    title: str
    measure: str
    """Name of one of :data:`MEASURES`."""
    seed: int
    facts: Mapping[str, str]
    """What was run, line by line."""
    command: str
    """The command line that runs it again."""
    stages: tuple[Stage, ...]
    logs: Mapping[str, Log] = field(default_factory=dict)
    """By stage, in the order in which they ran."""
    finished: bool = True
    gate_met: bool = True
    note: str = ""
    """What must be said beside its figures."""

    @property
    def words(self) -> Measure:
        """How the measure is spoken of."""
        return MEASURES[self.measure]

    @property
    def spiking(self) -> tuple[Stage, ...]:
        """The stages that spike."""
        return tuple(stage for stage in self.stages if stage.T is not None)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that spike, in the network's order."""
        return tuple(dict.fromkeys(layer for stage in self.stages for layer in stage.spike_rate))


@dataclass(frozen=True)
class Sample:
    """An observation, and what the networks make of it."""

    observation: np.ndarray[Any, Any]
    """A picture ``(H, W)`` or ``(H, W, 3)`` of bytes, or a vector ``(N,)``."""
    spikes: np.ndarray[Any, Any]
    """Of the last stage's first layer, summed over T: ``(C, H, W)`` or ``(N,)``."""
    chosen: Mapping[str, str]
    """Action by stage."""


@dataclass(frozen=True)
class Behaviour:
    """What the networks of a run do on the same observations."""

    source: str
    """Where the observations are from, in words."""
    first_layer: str
    """Its name."""
    actions: Mapping[str, np.ndarray[Any, Any]]
    """Number of the chosen action by stage, ``(N,)`` each."""
    names: tuple[str, ...]
    """Of the actions."""
    energy: Mapping[str, Breakdown]
    """By spiking stage."""
    samples: tuple[Sample, ...]
