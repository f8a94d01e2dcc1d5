"""Training a network at few timesteps to imitate a teacher's Q-values on states that it meets, resumable to the bit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from snnrl.agents import metrics
from snnrl.agents.evaluate import episode_seeds, mean_rate
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import training_envs
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.checkpoint import flatten_optimizer, restore_optimizer
from snnrl.distillation import best_linear, distillation_loss
from snnrl.energy import LayerOperations, counting_operations
from snnrl.networks import constrain, penalized
from snnrl.neurons import sum_over_time
from snnrl.pipeline import STOP, StageFolder

Report = Callable[[int, str], None]
Weights = dict[str, Tensor]
CALIBRATION = 512
"""Observations on which thresholds are set."""

CALIBRATION_ROWS = 6400
"""Only so many of them that T times as many rows are these: 0.3 GB of spikes in the Nature network's first layer."""

CHECK_EVERY = 50
"""Batches between looks at the loss and at what the network does."""

Gate = Callable[[SpikingDQN], tuple[float, bool]]
"""Returns the gated reward of an agent, and whether it is enough."""


class Distilled(NamedTuple):
    """The best gated reward, the start that was chosen, and how many rounds were trained from there."""

    reward: float
    start: str
    rounds: int


def distil(
    student: SpikingDQN,
    starts: Mapping[str, Weights],
    teacher: SpikingDQN,
    recipe: Recipe,
    gate: Gate,
    folder: StageFolder,
    report: Report,
    seed: int,
) -> Distilled:
    """Train ``student`` in place to answer as ``teacher`` does, and leave it with the weights that did best.

    It begins with the one of the ``starts`` (weights by name) that plays best once its head is fitted to the teacher's
    answers. As long as the gate is missed, a round of training follows: the first on the teacher's play, each further
    one on the student's own play as well, labelled by the teacher (DAgger: Ross et al. 2011, arXiv 1011.0686). Each
    round has a fresh optimiser. Goes on from the folder's checkpoint if there is one.
    """
    work = _Distillation(student, teacher, recipe, folder, report, seed)
    work.resume()
    if not work.start:
        work.choose_start(starts, gate)
    while work.round < recipe.reduction.rounds and not work.passed:
        work.gather()
        work.train_round()
        work.judge(gate)
    student.q_net.load_state_dict(work.best)
    student.q_net_target.load_state_dict(work.best)
    return Distilled(work.best_reward, work.start, work.round)


class _Distillation:
    def __init__(
        self,
        student: SpikingDQN,
        teacher: SpikingDQN,
        recipe: Recipe,
        folder: StageFolder,
        report: Report,
        seed: int,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.recipe, self.settings = recipe, recipe.reduction
        self.folder, self.report, self.seed = folder, report, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.start = ""
        self.round = self.batch = 0
        self.passed = False
        self.best_reward = -np.inf
        self.best: Weights = {}
        self.observations: list[Tensor] = []
        self.answers: list[Tensor] = []
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self.optimizer = torch.optim.Adam(self.student.q_net.parameters(), lr=self.settings.learning_rate)

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = self.folder.load()
        if checkpoint is None:
            return
        metadata, tensors = checkpoint
        self.round, self.batch, self.passed = metadata["round"], metadata["batch"], metadata["passed"]
        self.start, self.best_reward = metadata["start"], float(metadata["best_reward"])
        self.best = tensors["best"]
        self.student.q_net.load_state_dict(tensors["student"])
        restore_optimizer(self.optimizer, tensors["optimizer"], metadata["optimizer"])
        self.generator.set_state(tensors["random"]["generator"])
        for number in range(metadata["gathered"]):
            self._take(self.folder.part(f"play-{number}"))

    def save(self) -> None:
        """Write a checkpoint; what was gathered lies in parts of its own."""
        optimizer, layout = flatten_optimizer(self.optimizer.state_dict())
        metadata: Mapping[str, Any] = {
            "start": self.start,
            "round": self.round,
            "batch": self.batch,
            "passed": self.passed,
            "best_reward": repr(self.best_reward),
            "gathered": len(self.observations),
            "optimizer": layout,
        }
        tensors = {
            "student": self.student.q_net.state_dict(),
            "best": self.best,
            "optimizer": optimizer,
            "random": {"generator": self.generator.get_state()},
        }
        self.folder.save(metadata, tensors)

    def choose_start(self, starts: Mapping[str, Weights], gate: Gate) -> None:
        """Let every start play with a head fitted to the teacher's answers, and go on from the best."""
        self.report(0, "the teacher plays")
        self.add_play(self.teacher, self.settings.frames)
        for name, weights in starts.items():
            self.report(0, f"trying the start {name}")
            self.student.q_net.load_state_dict(weights)
            align_head(self.student, self.observations[0], self.answers[0])
            if self.keep_if_best(gate):
                self.start = name
        self.student.q_net.load_state_dict(self.best)
        # however well it plays, its spikes are not yet what they cost
        if self.settings.spike_penalty or self.settings.hoyer_penalty:
            self.passed, self.best_reward = False, -np.inf
        self.save()

    def gather(self) -> None:
        """From the second round on, let the student play and the teacher say what it would have answered."""
        if self.round > 0 and len(self.observations) <= self.round:
            self.report(self.round * self.settings.batches, "the student plays")
            self.add_play(self.student, self.settings.own_frames)
            self.save()

    def add_play(self, player: SpikingDQN, frames: int) -> None:
        """Add observations of a player's play with the teacher's answers, as a part of the checkpoint."""
        number = len(self.observations)
        seen = gather_play(player, self.recipe, frames, episode_seeds(self.seed, "play", number + 1)[number])
        play = {"observations": seen, "answers": q_values(self.teacher, seen)}
        self.folder.add_part(f"play-{number}", play)
        self._take(play)

    def _take(self, play: Mapping[str, Tensor]) -> None:
        self.observations.append(play["observations"])
        self.answers.append(play["answers"])

    def train_round(self) -> None:
        """Take the round's batches, a checkpoint now and then."""
        if self.batch == 0:
            self._new_optimizer()
        observations, answers = torch.cat(self.observations), torch.cat(self.answers)
        q_net, settings = self.student.q_net, self.settings
        q_net.train()
        while self.batch < settings.batches:
            number = self.batch + 1
            due = STOP.is_set() or number % settings.checkpoint_every == 0
            if due or number % CHECK_EVERY == 0 or number == settings.batches:
                with metrics.watching(q_net) as seen, counting_operations(q_net, settings.batch_size) as operations:
                    loss = self._step(observations, answers)
                self._check(loss.item(), seen, operations.layers)
            else:
                self._step(observations, answers)
            if due and self.batch < settings.batches:
                self.save()

    def _step(self, observations: Tensor, answers: Tensor) -> Tensor:
        """Take one batch and return its loss."""
        student, settings = self.student, self.settings
        self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        rows = torch.randint(len(observations), (settings.batch_size,), generator=self.generator)
        with penalized(student.q_net, settings) as penalty, student.mixed_precision():
            answered = student.q_net(observations[rows].to(student.device))
        loss = distillation_loss(
            answered,
            answers[rows].to(student.device),
            q_weight=settings.q_weight,
            linear_range=settings.linear_range,
        )
        loss = penalty.add_to(loss)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        constrain(student.q_net)
        self.batch += 1
        return loss

    def _learning_rate(self) -> float:
        """Rise, lest Adam's first steps silence neurons for good; then fall to a tenth, to end near a minimum."""
        settings = self.settings
        rise = min(1.0, (self.batch + 1) / max(settings.warmup, 1))
        return settings.learning_rate * rise * (1 - 0.9 * self.batch / settings.batches)

    def _check(self, loss: float, seen: metrics.Activity, layers: Sequence[LayerOperations]) -> None:
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} after {self.batch} batches: lower reduction.learning_rate")
        done = self.round * self.settings.batches + self.batch
        self.student.logger.record("distil/loss", loss)
        self.student.logger.record("distil/batches", done, exclude="tensorboard")
        metrics.record(self.student.logger, "distil", seen, layers)
        self.student.logger.dump(done)
        self.report(done, f"loss {loss:.4f}, reward {self.best_reward:.1f}{mean_rate(seen.spike_rate)}")

    def judge(self, gate: Gate) -> None:
        """Play for the gate, keep the weights if they are the best so far, and end the round."""
        self.report((self.round + 1) * self.settings.batches, f"at the gate, reward so far {self.best_reward:.1f}")
        self.keep_if_best(gate)
        self.round, self.batch = self.round + 1, 0
        self.save()

    def keep_if_best(self, gate: Gate) -> bool:
        """Play for the gate; return whether the student did better than ever before."""
        self.student.policy.set_training_mode(False)
        reward, passed = gate(self.student)
        better = reward > self.best_reward
        if better:
            self.best_reward, self.passed = reward, passed
            self.best = {name: value.clone() for name, value in self.student.q_net.state_dict().items()}
        return better


@torch.no_grad()
def align_head(student: SpikingDQN, observations: Tensor, answers: Tensor) -> None:
    """Give the student's linear head the weights that answer best on what the layer before it makes of the spikes.

    Conversion and every lowering of T change how often that layer fires, and hence the level of all Q-values, which
    would otherwise take most of a stage to move back. A dueling head, of two layers, is left as it is.
    """
    branches = student.q_net.branches()
    if len(branches) > 1 or student.T is None:
        return
    head, inputs = branches[0].get_submodule("head"), list[Tensor]()
    assert isinstance(head, nn.Linear)
    hook = head.register_forward_pre_hook(lambda _, given: inputs.append(sum_over_time(given[0], student.T).cpu()))
    q_values(student, observations)
    hook.remove()
    has_bias = isinstance(head.bias, Tensor)
    weight, bias = best_linear(torch.cat(inputs), answers, bias=has_bias)
    head.weight.copy_(weight)
    if has_bias:
        head.bias.copy_(bias / student.T)  # it is added at every step


def gather_play(player: SpikingDQN, recipe: Recipe, frames: int, seed: int) -> Tensor:
    """Return ``frames`` observations of an agent's play with some random actions, from ``n_envs`` environments."""
    envs = training_envs(recipe, seed)
    generator = np.random.default_rng(seed)
    observations = envs.reset()
    assert isinstance(envs.action_space, spaces.Discrete)
    seen: list[np.ndarray[Any, Any]] = []
    while len(seen) * envs.num_envs < frames:
        assert isinstance(observations, np.ndarray)
        seen.append(np.array(observations))
        actions, _ = player.predict(observations, deterministic=True)
        explore = generator.random(envs.num_envs) < recipe.reduction.epsilon
        actions = np.where(explore, generator.integers(envs.action_space.n, size=envs.num_envs), actions)
        observations, _, _, _ = envs.step(actions)
    envs.close()
    return torch.from_numpy(np.concatenate(seen))


def calibration_play(player: SpikingDQN, recipe: Recipe, T: int) -> Tensor:
    """Return observations of an agent's play, in random order, on which the thresholds of ``T`` timesteps are set."""
    seed = episode_seeds(recipe.seed, "play", 1)[0]
    play = gather_play(player, recipe, CALIBRATION, seed)
    return play[np.random.default_rng(seed).permutation(len(play))[: CALIBRATION_ROWS // T]]


@torch.no_grad()
def q_values(agent: SpikingDQN, observations: Tensor, batch: int = 512) -> Tensor:
    """Return the agent's Q-values ``(N, actions)`` for observations ``(N, ...)``, on the CPU."""
    agent.policy.set_training_mode(False)
    return torch.cat([agent.q_net(part.to(agent.device)).cpu() for part in torch.split(observations, batch)])
