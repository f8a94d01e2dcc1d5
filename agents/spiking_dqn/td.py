"""Training by temporal differences, SB3's loop, resumable to the bit: the ordinary network, and spiking ones too."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.encoding import decode, encode
from snnrl.agents.evaluate import evaluate, mean_rate, record
from snnrl.agents.spiking_dqn import replay, storage
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.build import SeededVecEnv
from snnrl.agents.spiking_dqn.config import Recipe, Training
from snnrl.agents.spiking_dqn.random_state import random_state, set_random_state
from snnrl.checkpoint import Archive
from snnrl.pipeline import STOP, StageFolder

Report = Callable[[int, str], None]
"""Called with steps done and a text on how it goes."""


RECENT = 20
"""Training episodes whose mean reward is shown."""


Keep = Callable[[SpikingDQN], None]
"""Called with the agent at each milestone."""


class Trained(NamedTuple):
    """What training came to: the best greedy reward, environment steps, and the training episodes' rewards in order."""

    reward: float
    steps: int
    episode_rewards: list[float]


def train(agent: SpikingDQN, callback: "Progress") -> Trained:
    """Train ``agent`` in place and leave it with the weights that did best in the callback's greedy episodes.

    Goes on from the folder's checkpoint if there is one; the final weights are those of an unbroken run.
    """
    checkpoint = callback.folder.load()
    if checkpoint is not None:
        callback.restore(agent, checkpoint)
    remaining = callback.training.steps - agent.num_timesteps
    if remaining > 0 and not callback.enough:
        agent.learn(remaining, callback, log_interval=10, reset_num_timesteps=checkpoint is None)
    if callback.best_weights is None:
        callback.evaluate(agent)
    assert callback.best_weights is not None
    agent.q_net.load_state_dict(callback.best_weights)
    agent.q_net_target.load_state_dict(callback.best_weights)
    return Trained(callback.best_reward, agent.num_timesteps, callback.episode_rewards)


class Progress(BaseCallback):
    """Evaluates on ``seeds``, keeps the best weights, stops when that is enough, and checkpoints to ``folder``."""

    def __init__(
        self,
        recipe: Recipe,
        training: Training,
        seeds: list[int],
        folder: StageFolder,
        report: Report,
        keep: Keep,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.training = training
        self.seeds = seeds
        self.folder = folder
        self.report = report
        self.keep = keep
        self.best_reward = -np.inf
        self.best_weights: dict[str, Tensor] | None = None
        self.episode_rewards: list[float] = []
        self.evaluated = self.saved = 0
        self.rates = ""
        self.parts: list[tuple[int, int]] = []

    @property
    def enough(self) -> bool:
        """Whether the target reward or the number of episodes has been reached."""
        target, episodes = self.training.target_reward, self.training.episodes
        return (target is not None and self.best_reward >= target) or (
            episodes is not None and len(self.episode_rewards) >= episodes
        )

    def _on_rollout_start(self) -> None:
        # between two rollouts nothing is half done: no transition is unstored, no update is pending
        every = self.training.checkpoint_every
        if STOP.is_set() or self.num_timesteps // every > self.saved // every:
            self.save()

    def _on_step(self) -> bool:
        milestones = self.training.milestone_every
        if milestones is not None and self.num_timesteps % milestones < self.agent.n_envs:
            self.keep(self.agent)
        self.episode_rewards += [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        every = self.training.eval_every
        if self.num_timesteps // every > self.evaluated // every:
            self.evaluated = self.num_timesteps
            self.evaluate(self.agent)
        if recent := self.episode_rewards[-RECENT:]:
            self.logger.record(f"rollout/reward_mean_{RECENT}", float(np.mean(recent)))
        self.report(self.num_timesteps, f"reward {np.mean(recent):.1f}{self.rates}" if recent else "")
        return not self.enough

    @property
    def agent(self) -> SpikingDQN:
        """The agent in training, as what it is."""
        assert isinstance(self.model, SpikingDQN)
        return self.model

    def evaluate(self, agent: SpikingDQN) -> None:
        """Play the gate's episodes and keep the weights if they did better than any before."""
        evaluation = evaluate(agent, self.recipe.env, self.seeds, **self.recipe.gate_play)
        record(agent.logger, "eval", evaluation)
        agent.logger.record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")
        agent.logger.dump(agent.num_timesteps)
        self.rates = mean_rate(evaluation.spike_rate)
        if evaluation.mean > self.best_reward:
            self.best_reward = evaluation.mean
            self.best_weights = {name: value.clone() for name, value in agent.q_net.state_dict().items()}

    def save(self) -> None:
        """Write the newest replay rows as parts, then the checkpoint that counts on them."""
        agent, buffer = self.agent, self.agent.replay_buffer
        assert buffer is not None
        assert isinstance(agent.env, SeededVecEnv | AtariVecEnv)
        self.saved = self.num_timesteps
        written, size = self.num_timesteps // agent.n_envs, buffer.buffer_size
        start = max(self.parts[-1][1] if self.parts else 0, written - size)
        turn = (written // size) * size  # the row from which the ring has begun again
        for begin, end in ((start, min(turn, written)), (max(start, turn), written)):
            if begin < end:
                rows = replay.read_rows(buffer, begin % size, begin % size + end - begin)
                self.folder.add_part(f"rows-{begin}-{end}", rows)
                self.parts.append((begin, end))
        self.parts = [part for part in self.parts if part[1] > written - size]
        generators, generator_tensors = random_state(agent.action_space)
        metadata, tensors = storage.describe(agent, {"_last_obs"})
        metadata |= {
            "evaluated": self.evaluated,
            "best_reward": encode(self.best_reward),
            "episode_rewards": self.episode_rewards,
            "random": generators,
            "envs": agent.env.progress(),
            "parts": self.parts,
        }
        tensors |= {"random": generator_tensors, "best": self.best_weights or {}}
        self.folder.save(metadata, tensors)
        self.folder.keep_parts(f"rows-{begin}-{end}" for begin, end in self.parts)

    def restore(self, agent: SpikingDQN, checkpoint: Archive) -> None:
        """Put everything back as it was when the checkpoint was written."""
        metadata, buffer = checkpoint.metadata, agent.replay_buffer
        assert buffer is not None
        assert isinstance(agent.env, SeededVecEnv | AtariVecEnv)
        for name in (*storage.PROGRESS, "calibrated"):
            if name in metadata["attributes"]:
                setattr(agent, name, decode(metadata["attributes"][name], name))
        storage.restore(agent, checkpoint, str(self.folder.path))
        self.saved = agent.num_timesteps
        self.evaluated = metadata["evaluated"]
        self.best_reward = decode(metadata["best_reward"], "best_reward")
        self.best_weights = checkpoint.tensors["best"] or None
        self.episode_rewards = metadata["episode_rewards"]
        self.parts = [(begin, end) for begin, end in metadata["parts"]]
        for begin, end in self.parts:
            replay.write_rows(buffer, begin % buffer.buffer_size, self.folder.part(f"rows-{begin}-{end}"))
        written = agent.num_timesteps // agent.n_envs
        buffer.pos, buffer.full = written % buffer.buffer_size, written >= buffer.buffer_size
        agent._last_obs = agent.env.restore(metadata["envs"])
        set_random_state(metadata["random"], checkpoint.tensors["random"], agent.action_space)
