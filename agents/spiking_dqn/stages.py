"""The main job: an ordinary DQN, its spiking conversion, and one stage after another at fewer timesteps."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger, configure

from snnrl.agents.evaluate import Evaluation, episode_seeds, evaluate, play, record
from snnrl.agents.metrics import watching
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import build_agent, training_envs
from snnrl.agents.spiking_dqn.config import Recipe, Training
from snnrl.agents.spiking_dqn.conversion import convert_agent, load_weights, through_view
from snnrl.agents.spiking_dqn.distil import Weights, calibration_play, distil, q_values
from snnrl.agents.spiking_dqn.td import Progress, train
from snnrl.conversion import ConversionReport, agreement
from snnrl.distillation import regret
from snnrl.files import write_atomically
from snnrl.networks import calibrating
from snnrl.pipeline import Result, StageFolder, run_stage
from snnrl.reduction import Attempt, best_attempt, gate_passed, next_stage
from snnrl.runs import RunFolder
from snnrl.statistics import mean_estimate

Reporter = Callable[[str, int], Callable[[int, str], None]]
"""Begins a stage of so many steps; returns what to call with steps done and a text."""


class Job:
    """One run of a recipe: every stage reads what the stages before it left in the run folder, and nothing else.

    ``start`` is the agent to begin with instead of training an ordinary one, or None; with ``scratch`` the first
    spiking network is trained from scratch, by temporal differences.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        reporter: Reporter,
        say: Callable[[str], None],
        *,
        start: SpikingDQN | None = None,
        scratch: bool = False,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.reporter = reporter
        self.say = say
        self.start = start
        self.scratch = scratch
        self.results: dict[str, Result] = {}
        self.log: Logger | None = None

    def run_all(self) -> dict[str, Any]:
        """Run all stages that have not been run, and return the summary."""
        done: list[Attempt] = []
        steps = self.recipe.steps
        if self.start is not None and self.start.T is not None:
            name = f"T{self.start.T}"
            result = self.stage(name, functools.partial(self.take_over, name))
            done.append(Attempt(name, self.start.T, result["gate_reward"], True))
            steps = (self.start.T, *(T for T in steps if T < self.start.T))
        elif not self.scratch:
            self.stage("ann", self.train_ordinary if self.start is None else functools.partial(self.take_over, "ann"))
        while (T := next_stage(steps, done)) is not None:
            name = f"T{T}" if all(attempt.T != T for attempt in done) else f"T{T}-again"
            result = self.stage(name, functools.partial(self.train_spiking, name, T, list(done)))
            done.append(Attempt(name, T, result["gate_reward"], result["gate_passed"]))
        summary = self.summary(done)
        self.run.finish(summary)
        return summary

    def stage(self, name: str, work: Callable[[StageFolder], Result]) -> Result:
        """Run one stage unless its result is there."""
        try:
            result = run_stage(self.run.stages, name, work)
            self.run.check_stage(name, result)
            self.results[name] = result
        finally:
            if self.log is not None:
                self.log.close()
                self.log = None
        return self.results[name]

    def train_ordinary(self, folder: StageFolder) -> Result:
        """Train the ordinary network by temporal differences."""
        agent = self.agent("ann", None, fresh=True)
        result = self.train_by_td("ann", agent, self.recipe.ann, folder)
        return result | self.finish("ann", agent) | {"gate_passed": True}

    def take_over(self, name: str, folder: StageFolder) -> Result:
        """Begin with an agent that was trained elsewhere."""
        assert self.start is not None
        self.start.set_logger(self.logger(name))
        reward, _ = self.gate(self.start)
        return {"gate_reward": reward, "gate_passed": True} | self.finish(name, self.start)

    def train_spiking(self, name: str, T: int, done: list[Attempt], folder: StageFolder) -> Result:
        """Start from the stage before, or from the ordinary network's conversion, and train at ``T`` timesteps."""
        before = min((attempt for attempt in done if attempt.T > T), key=lambda attempt: attempt.T, default=None)
        teacher = self.teacher(before)
        student = self.agent(name, T, fresh=teacher is None)
        result: Result = {}
        starts = self.starts(student, name, done, before, result)
        if starts:
            load_weights(student, next(iter(starts.values())))
        if teacher is not None and self.recipe.reduction.loss == "distill":
            result |= self.distil(name, student, starts, teacher, folder)
        else:
            training = self.recipe.ann if teacher is None else self.recipe.reduction.td
            result["before"] = self.before(student, teacher)
            result |= self.train_by_td(name, student, training, folder)
        result["gate_passed"] = teacher is None or self.passes(result["gate_reward"])
        return result | self.finish(name, student)

    def distil(
        self, name: str, student: SpikingDQN, starts: dict[str, Weights], teacher: str, folder: StageFolder
    ) -> Result:
        """Train by distillation from the best of the starts."""
        recipe = self.recipe
        if recipe.steps[-1] == student.T:
            longer = recipe.reduction.model_copy(update={"rounds": recipe.reduction.most_rounds})
            recipe = recipe.model_copy(update={"reduction": longer})
        report = self.reporter(name, recipe.reduction.rounds * recipe.reduction.batches)
        seed = self.seed(name)
        distilled = distil(student, starts, self.load(teacher), recipe, self.gate, folder, report, seed)
        self.say(f"{name}: {distilled.start}, {distilled.rounds} rounds, reward {distilled.reward:.1f} at the gate")
        play = calibration_play(student, self.recipe, student.T or 1)
        lost = regret(q_values(student, play), q_values(self.load(teacher), play))
        found = {"start": distilled.start, "rounds": distilled.rounds, "regret": lost}
        trained = copy.deepcopy(student.q_net.state_dict())
        load_weights(student, starts[distilled.start])
        found["before"] = self.before(student, teacher)
        load_weights(student, trained)
        return {"gate_reward": distilled.reward, **found}

    def before(self, student: SpikingDQN, teacher: str | None) -> Result:
        """Return spike rates and the agreement with the teacher, on its play, of a student yet to be trained."""
        guide = student if teacher is None else self.load(teacher)
        play = calibration_play(guide, self.recipe, student.T or 1)
        with watching(student.q_net) as seen:
            answers = q_values(student, play)
        agreed = None if teacher is None else agreement(q_values(guide, play), answers)[0]
        return {"spike_rate": seen.spike_rate, "action_agreement": agreed}

    def starts(
        self, student: SpikingDQN, name: str, done: list[Attempt], before: Attempt | None, result: Result
    ) -> dict[str, Weights]:
        """Return the weights that a stage can begin with: handed over from the stage before, or newly converted.

        The first one is the paper's way; only distillation tries the others as well.
        """
        found: dict[str, Weights] = {}
        T = student.T or 1
        if before is not None:
            previous = self.load(best_attempt(done, before.T).name)
            self.reduce(previous, T)
            found["handed over"] = previous.q_net.state_dict()
        if "ann" in self.results and (before is None or self.recipe.reduction.loss == "distill"):
            ordinary = self.load("ann")
            observations = calibration_play(ordinary, self.recipe, T)
            for percentile in self.percentiles:
                converted, report = convert_agent(ordinary, observations.numpy(), T=T, percentile=percentile)
                sees_planes = self.recipe.reduction.view != "grey"
                weights = through_view(converted, student, observations) if sees_planes else None
                found[f"converted at the {percentile:g}th percentile"] = weights or converted.q_net.state_dict()
                if before is None and percentile == self.percentiles[0]:
                    result["conversion"] = report.as_dict()
                    self.say_conversion(name, report)
        return found

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The recipe's percentile, and for distillation the others, one of which may suit a T better."""
        conversion = self.recipe.conversion
        return (conversion.percentile, *(conversion.others if self.recipe.reduction.loss == "distill" else ()))

    def say_conversion(self, name: str, report: ConversionReport) -> None:
        """Print what a conversion reports."""
        agree, error = report.action_agreement, report.q_error
        self.say(f"{name}: converted, {agree:.0%} of actions agree, Q error {error:.2f} std")
        for advice in report.advice:
            self.say(f"{name}: {advice}")

    @torch.no_grad()
    def reduce(self, agent: SpikingDQN, T: int) -> None:
        """Let a trained agent decide in ``T`` steps: its weights, leaks and thresholds, but none that silence a layer.

        At fewer steps less current comes together, and a threshold may never be reached.
        """
        observations = calibration_play(agent, self.recipe, T).to(agent.device)
        agent.reduce_to(T)
        with calibrating(agent.q_net, self.recipe.conversion.percentile, lower_only=True):
            agent.q_net(observations)

    def train_by_td(self, name: str, agent: SpikingDQN, training: Training, folder: StageFolder) -> Result:
        """Train by temporal differences and gate on greedy episodes."""

        def keep(milestone: SpikingDQN) -> None:
            milestone.save(self.run.agent(f"{name}-{milestone.num_timesteps}"), exclude=["_last_obs"])

        report = self.reporter(name, training.steps)
        trained = train(agent, Progress(self.recipe, training, self.gate_seeds, folder, report, keep))
        return {"gate_reward": trained.reward, "steps": trained.steps, "episode_rewards": trained.episode_rewards}

    def teacher(self, before: Attempt | None) -> str | None:
        """Return the name of the stage to imitate and to be measured against; None for the first one from scratch."""
        if "ann" in self.results and (self.recipe.reduction.teacher == "ann" or before is None):
            return "ann"
        return None if before is None else before.name

    def finish(self, name: str, agent: SpikingDQN) -> Result:
        """Write the stage's agent and report on it, on seeds that were used for nothing else."""
        agent.policy.optimizer.state.clear()  # every stage begins with an optimiser of its own
        agent.save(self.run.agent(name), exclude=["_last_obs"])
        evaluation = self.report(agent)
        record(agent.logger, "report", evaluation)
        agent.logger.dump(0)
        self.say(f"{name}: reward {evaluation.mean:.1f} +- {evaluation.std:.1f}, {agent_rates(evaluation)}")
        return {"name": name, "T": agent.T, "agent": f"{name}.zip"} | evaluation.as_dict()

    def report(self, agent: SpikingDQN) -> Evaluation:
        """Play the reported episodes."""
        seeds = episode_seeds(self.recipe.seed, "report", self.recipe.report_episodes)
        recipe = self.recipe
        return evaluate(agent, recipe.env, seeds, env_kwargs=recipe.env_kwargs, most_steps=recipe.most_steps)

    @property
    def gate_seeds(self) -> list[int]:
        """Starts of the episodes that gate and choose between networks."""
        return episode_seeds(self.recipe.seed, "gate", self.recipe.gate.episodes)

    def gate(self, agent: SpikingDQN) -> tuple[float, bool]:
        """Return the reward on the gate's episodes and whether it is within the tolerance of the teacher's."""
        rewards = play(agent, self.recipe.env, self.gate_seeds, **self.recipe.gate_play)
        reward = sum(rewards) / len(rewards)
        return reward, self.passes(reward)

    def passes(self, reward: float) -> bool:
        """Compare with the first stage's reward on the same episodes."""
        first = next(iter(self.results.values()), {"gate_reward": reward})
        return gate_passed(reward, first["gate_reward"], self.recipe.gate.tolerance)

    def agent(self, name: str, T: int | None, *, fresh: bool) -> SpikingDQN:
        """Return an untrained agent for a stage: to be trained from scratch (``fresh``), or to go on from another."""
        seed = self.seed(name)
        recipe = self.recipe if fresh else fine_tuning(self.recipe)
        agent = build_agent(recipe, T, training_envs(recipe, seed), seed, like=self.start)
        agent.set_logger(self.logger(name))
        return agent

    def logger(self, name: str) -> Logger:
        """Return a logger for a stage, to TensorBoard and CSV, which is closed with the stage."""
        self.log = configure(str(self.run.logs(name)), ["csv", "tensorboard"])
        return self.log

    def load(self, name: str) -> SpikingDQN:
        """Return the agent that a stage left."""
        return SpikingDQN.load(self.run.agent(name), device=self.recipe.device)

    def seed(self, name: str) -> int:
        """Return a seed for a stage: another one for every stage and every seed of the run."""
        return int(np.random.SeedSequence([self.recipe.seed, *name.encode()]).generate_state(1)[0])

    def summary(self, done: list[Attempt]) -> dict[str, Any]:
        """Return the stages' figures, the best of each T, with the paired difference to the ordinary network."""
        names = (["ann"] if "ann" in self.results else []) + [best_attempt(done, T).name for T in self.order(done)]
        stages = []
        for name in names:
            result = dict(self.results[name])
            rewards = result["rewards"]
            if result["T"] is not None:
                result |= self.promote(name, f"T{result['T']}")
                if "ann" in self.results:
                    mean, low, high = mean_estimate(np.subtract(rewards, self.results["ann"]["rewards"]))
                    result["difference"] = {"mean": mean, "low": low, "high": high}
            stages.append(result)
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "env_kwargs": self.recipe.env_kwargs,
            "seed": self.recipe.seed,
            "stages": stages,
            "attempts": [attempt._asdict() for attempt in done],
            "gate_met": bool(self.results[names[-1]]["gate_passed"]),
            "minutes": round(sum(result["minutes"] for result in self.results.values()), 2),
            "threads": torch.get_num_threads(),
        }

    def promote(self, attempt: str, name: str) -> Result:
        """Let a second try that did better take the first one's place as the agent at its T."""
        if attempt != name:
            write_atomically(self.run.agent(name), self.run.agent(attempt).read_bytes())
        return {"name": name, "agent": f"{name}.zip"}

    @staticmethod
    def order(done: list[Attempt]) -> list[int]:
        """Return every T that was trained, falling."""
        return sorted({attempt.T for attempt in done}, reverse=True)


def fine_tuning(recipe: Recipe) -> Recipe:
    """Return the recipe for a stage that goes on from a trained network: smaller steps, little exploration."""
    reduction = recipe.reduction
    changes = {
        "learning_rate": reduction.learning_rate,
        "final_learning_rate": None,
        "train_freq": reduction.train_freq or recipe.dqn.train_freq,
        "exploration_initial_eps": reduction.epsilon,
        "exploration_final_eps": reduction.epsilon,
    }
    return recipe.model_copy(update={"dqn": recipe.dqn.model_copy(update=changes)})


def agent_rates(evaluation: Evaluation) -> str:
    """Return energy ratio and mean spike rates of an evaluation on one line."""
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in evaluation.spike_rate.items())
    return f"energy ratio {evaluation.energy_ratio:.2f}" + (f", spikes per neuron: {rates}" if rates else "")
