"""The chain of stages: an ordinary network, its spiking conversion, and one stage after another at fewer timesteps."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, configure

from snnrl.agents.settings import StagedRecipe
from snnrl.conversion import ConversionReport
from snnrl.files import write_atomically
from snnrl.pipeline import Result, StageFolder, run_stage
from snnrl.reduction import Attempt, best_attempt, gate_passed, next_stage
from snnrl.runs import RunFolder
from snnrl.statistics import mean_estimate

Reporter = Callable[[str, int], Callable[[int, str], None]]
"""Begins a stage of so many steps; returns what to call with steps done and a text."""


class Decides(Protocol):
    """What a stage trains."""

    @property
    def T(self) -> int | None:
        """Timesteps per decision; None for an ordinary network."""


Agent = TypeVar("Agent", bound=Decides)


class Chain(ABC, Generic[Agent]):
    """One run of a recipe: every stage reads what the stages before it left in the run folder, and nothing else.

    ``start`` is what to begin with instead of training an ordinary network, or None. With ``scratch`` the first
    spiking network begins with random weights; an ordinary ``start`` is then its teacher alone.
    """

    score: ClassVar[str]
    """What stages are judged by: a result has it under ``gate_SCORE``."""

    def __init__(
        self,
        recipe: StagedRecipe,
        tolerance: float,
        run: RunFolder,
        reporter: Reporter,
        say: Callable[[str], None],
        *,
        start: Agent | None = None,
        scratch: bool = False,
    ) -> None:
        self.tolerance = tolerance
        self.run = run
        self.reporter = reporter
        self.say = say
        self.start = start
        self.scratch = scratch
        self.results: dict[str, Result] = {}
        self.log: Logger | None = None
        self.seed_of_run, self.steps, self.settings = recipe.seed, recipe.steps, recipe.model_dump(mode="json")

    @abstractmethod
    def train_ordinary(self, folder: StageFolder) -> Result:
        """Train the ordinary network."""

    @abstractmethod
    def take_over(self, name: str, folder: StageFolder) -> Result:
        """Begin with ``start``."""

    @abstractmethod
    def train_spiking(self, name: str, T: int, done: list[Attempt], folder: StageFolder) -> Result:
        """Start from the stage before, or from the ordinary network's conversion, and train at ``T`` timesteps."""

    @abstractmethod
    def outcomes(self, result: Result) -> Sequence[float]:
        """Return what a stage reached in each test, the same tests for all stages."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what else a summary tells of the run."""

    def run_all(self) -> dict[str, Any]:
        """Run all stages that have not been run, and return the summary."""
        done: list[Attempt] = []
        steps = self.steps
        if self.start is not None and self.start.T is not None:
            name = f"T{self.start.T}"
            done.append(self.attempt(name, self.start.T, functools.partial(self.take_over, name)))
            steps = (self.start.T, *(T for T in steps if (self.start.T or 0) > T))
        elif self.start is not None:
            self.stage("ann", functools.partial(self.take_over, "ann"))
        elif not self.scratch:
            self.stage("ann", self.train_ordinary)
        while (T := next_stage(steps, done)) is not None:
            name = f"T{T}" if all(attempt.T != T for attempt in done) else f"T{T}-again"
            done.append(self.attempt(name, T, functools.partial(self.train_spiking, name, T, list(done))))
        further = self.finishing(best_attempt(done, done[-1].T).name)
        summary = self.summary(done, further)
        self.run.finish(summary)
        return summary

    def finishing(self, last: str) -> list[str]:
        """Run the stages that follow the ``last`` T, if there are any, and return their names."""
        return []

    def attempt(self, name: str, T: int, work: Callable[[StageFolder], Result]) -> Attempt:
        """Run a stage of a spiking network."""
        result = self.stage(name, work)
        return Attempt(name, T, result[f"gate_{self.score}"], result["gate_passed"])

    def stage(self, name: str, work: Callable[[StageFolder], Result]) -> Result:
        """Run one stage unless its result is there."""

        def judged(folder: StageFolder) -> Result:
            result = work(folder)
            return result | {"gate_passed": self.passes(result[f"gate_{self.score}"])}

        try:
            result = run_stage(self.run.stages, name, judged)
            self.run.check_stage(name, result, self.score)
            self.results[name] = result
        finally:
            if self.log is not None:
                self.log.close()
                self.log = None
        return self.results[name]

    def passes(self, score: float) -> bool:
        """Compare with the first stage's score at the gate; the first one passes."""
        first = next((result[f"gate_{self.score}"] for result in self.results.values()), score)
        return gate_passed(score, first, self.tolerance)

    def logger(self, name: str) -> Logger:
        """Return a logger for a stage, to TensorBoard and CSV, which is closed with the stage."""
        self.log = configure(str(self.run.logs(name)), ["csv", "tensorboard"])
        return self.log

    def seed(self, name: str) -> int:
        """Return a seed for a stage: another one for every stage and every seed of the run."""
        return int(np.random.SeedSequence([self.seed_of_run, *name.encode()]).generate_state(1)[0])

    def say_conversion(self, name: str, report: ConversionReport) -> None:
        """Print what a conversion reports."""
        agree, error = report.action_agreement, report.q_error
        self.say(f"{name}: converted, {agree:.0%} of answers agree, output error {error:.2f} std")
        for advice in report.advice:
            self.say(f"{name}: {advice}")

    def summary(self, done: list[Attempt], further: list[str]) -> dict[str, Any]:
        """Return the stages' figures, the best of each T, with the paired difference to the ordinary network."""
        tried = sorted({attempt.T for attempt in done}, reverse=True)
        names = (["ann"] if "ann" in self.results else []) + [best_attempt(done, T).name for T in tried] + further
        stages = []
        for name in names:
            result = dict(self.results[name])
            if result["T"] is not None:
                if name not in further:
                    result |= self.promote(name, f"T{result['T']}")
                if "ann" in self.results:
                    ours, theirs = (self.outcomes(self.results[one]) for one in (name, "ann"))
                    mean, low, high = mean_estimate(np.subtract(ours, theirs))
                    result["difference"] = {"mean": mean, "low": low, "high": high}
            stages.append(result)
        attempts = [{"name": a.name, "T": a.T, self.score: a.score, "passed": a.passed} for a in done]
        return {
            "recipe": self.settings,
            **self.about(),
            "seed": self.seed_of_run,
            "stages": stages,
            "attempts": attempts,
            "gate_met": bool(self.results[names[-1]]["gate_passed"]),
            "minutes": round(sum(result["minutes"] for result in self.results.values()), 2),
            "threads": torch.get_num_threads(),
        }

    def promote(self, attempt: str, name: str) -> Result:
        """Let a second try that did better take the first one's place as the agent at its T."""
        if attempt != name:
            write_atomically(self.run.agent(name), self.run.agent(attempt).read_bytes())
        return {"name": name, "agent": f"{name}.zip"}
