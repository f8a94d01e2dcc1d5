"""The main job: an ordinary DQN, its spiking conversion, and one stage after another at fewer timesteps."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from snnrl.agents.chain import Chain, Reporter
from snnrl.agents.evaluate import Evaluation, episode_seeds, evaluate, play, record
from snnrl.agents.metrics import watching
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import build_agent, training_envs
from snnrl.agents.spiking_dqn.config import Recipe, Training
from snnrl.agents.spiking_dqn.conversion import convert_agent, load_weights, through_view
from snnrl.agents.spiking_dqn.distil import Weights, calibration_play, distil, q_values
from snnrl.agents.spiking_dqn.td import Progress, train
from snnrl.conversion import agreement
from snnrl.distillation import regret
from snnrl.networks import calibrating
from snnrl.pipeline import Result, StageFolder
from snnrl.reduction import Attempt, best_attempt
from snnrl.runs import RunFolder


class Job(Chain[SpikingDQN]):
    """One run of a recipe for DQN agents; see :class:`Chain`. From scratch without a teacher the first learns by TD."""

    score = "reward"

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
        super().__init__(recipe, recipe.gate.tolerance, run, reporter, say, start=start, scratch=scratch)
        self.recipe = recipe

    def train_ordinary(self, folder: StageFolder) -> Result:
        """Train the ordinary network by temporal differences."""
        agent = self.agent("ann", None, fresh=True)
        result = self.train_by_td("ann", agent, self.recipe.ann, folder)
        return result | self.finish("ann", agent)

    def take_over(self, name: str, folder: StageFolder) -> Result:
        """Begin with an agent that was trained elsewhere."""
        assert self.start is not None
        self.start.set_logger(self.logger(name))
        reward, _ = self.gate(self.start)
        return {"gate_reward": reward} | self.finish(name, self.start)

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
        """Return the weights that a stage can begin with: handed over, newly converted, or random.

        The first one is the paper's way; only distillation tries the others as well.
        """
        found: dict[str, Weights] = {}
        T = student.T or 1
        if before is not None:
            previous = self.load(best_attempt(done, before.T).name)
            self.reduce(previous, T)
            found["handed over"] = previous.q_net.state_dict()
        elif self.scratch and "ann" in self.results:
            found["random weights"] = self.from_scratch(student)
        if "ann" in self.results and not self.scratch and (before is None or self.recipe.reduction.loss == "distill"):
            ordinary = self.load("ann")
            observations = calibration_play(ordinary, self.recipe, T)
            for percentile in self.percentiles:
                converted, report = convert_agent(
                    ordinary, observations.numpy(), T=T, percentile=percentile, neuron=student.q_net.neuron
                )
                sees_planes = self.recipe.reduction.view != "grey"
                weights = through_view(converted, student, observations) if sees_planes else None
                found[f"converted at the {percentile:g}th percentile"] = weights or converted.q_net.state_dict()
                if before is None and percentile == self.percentiles[0]:
                    result["conversion"] = report.as_dict()
                    self.say_conversion(name, report)
        return found

    @torch.no_grad()
    def from_scratch(self, student: SpikingDQN) -> Weights:
        """Return random weights with thresholds that let the layers fire on the teacher's play."""
        play = calibration_play(self.load("ann"), self.recipe, student.T or 1).to(student.device)
        with calibrating(student.q_net.train(), self.recipe.conversion.percentile):
            student.q_net(play)
        return copy.deepcopy(student.q_net.state_dict())

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The recipe's percentile, and for distillation the others, one of which may suit a T better."""
        conversion = self.recipe.conversion
        return (conversion.percentile, *(conversion.others if self.recipe.reduction.loss == "distill" else ()))

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

    def agent(self, name: str, T: int | None, *, fresh: bool) -> SpikingDQN:
        """Return an untrained agent for a stage: to be trained from scratch (``fresh``), or to go on from another."""
        seed = self.seed(name)
        recipe = self.recipe if fresh else fine_tuning(self.recipe)
        like = None if self.scratch else self.start
        agent = build_agent(recipe, T, training_envs(recipe, seed), seed, like=like, scratch=self.scratch)
        agent.set_logger(self.logger(name))
        return agent

    def load(self, name: str) -> SpikingDQN:
        """Return the agent that a stage left."""
        return SpikingDQN.load(self.run.agent(name), device=self.recipe.device)

    def outcomes(self, result: Result) -> Sequence[float]:
        """Return the rewards on the reported starts."""
        rewards: list[float] = result["rewards"]
        return rewards

    def about(self) -> dict[str, Any]:
        """Return what the environment was made with."""
        return {"env_kwargs": self.recipe.env_kwargs}


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
