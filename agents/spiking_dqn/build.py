"""From a recipe to environments and agents."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.frame_replay import FrameReplayBuffer
from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.config import DQN, Recipe
from snnrl.agents.spiking_dqn.conversion import without_batch_norm
from snnrl.agents.spiking_dqn.policy import SpikingCnnPolicy
from snnrl.envs import Progress, SeededEpisodes, games, make, read_protocol
from snnrl.errors import UserError
from snnrl.networks import View

RANDOM_STEPS = 100
"""Of every environment, over which the background is measured."""


class SeededVecEnv(DummyVecEnv):
    """Environments stepped one after the other that can be resumed exactly; :class:`AtariVecEnv` is its like."""

    def progress(self) -> list[Progress]:
        """Return what ``restore`` needs, ready for JSON."""
        return self.env_method("progress")

    def restore(self, progress: Sequence[Progress]) -> np.ndarray[Any, Any]:
        """Bring all environments to where ``progress()`` was called and return the observations there."""
        self.reset()
        return np.stack([self.env_method("restore", one, indices=i)[0] for i, one in enumerate(progress)])


def training_envs(recipe: Recipe, seed: int, count: int | None = None) -> SeededVecEnv | AtariVecEnv:
    """Return parallel environments that can be resumed exactly, their episodes seeded from ``seed``."""
    count = count or recipe.n_envs
    if recipe.env in games():
        return AtariVecEnv(recipe.env, count, read_protocol(recipe.env_kwargs["protocol"]), seed)

    def one(rank: int) -> Any:
        return lambda: SeededEpisodes(channels_first(Monitor(make(recipe.env))), seed, rank)

    return SeededVecEnv([one(rank) for rank in range(count)])


def checkpoint_bytes(recipe: Recipe, *, learns_by_td: bool) -> int:
    """Return about how many bytes the checkpoints of a run's largest stage take."""
    envs = training_envs(recipe, recipe.seed, 1)
    space, frames = envs.observation_space, isinstance(envs, AtariVecEnv)
    envs.close()
    assert space.shape is not None
    assert space.dtype is not None
    observation = int(np.prod(space.shape)) * space.dtype.itemsize
    stored = observation // space.shape[0] if frames else 2 * observation
    rounds = max(recipe.reduction.rounds, recipe.reduction.most_rounds) - 1
    play = (recipe.reduction.frames + rounds * recipe.reduction.own_frames) * observation
    return max(
        recipe.dqn.buffer_size * stored if learns_by_td else 0, play if recipe.reduction.loss == "distill" else 0
    )


def channels_first(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return an environment whose images are ``(C, H, W)``, as networks take them, if it gives ``(H, W, C)``."""
    space = env.observation_space
    if not (isinstance(space, spaces.Box) and is_image_space(space)) or is_image_space_channels_first(space):
        return env
    transposed = VecTransposeImage.transpose_space(space)
    return TransformObservation(env, VecTransposeImage.transpose_image, transposed)


def build_agent(
    recipe: Recipe,
    T: int | None,
    env: VecEnv,
    seed: int,
    like: SpikingDQN | None = None,
    *,
    scratch: bool = False,
) -> SpikingDQN:
    """Return an untrained agent: spiking at ``T`` timesteps, or ordinary with None.

    Its network is the recipe's, or that of the agent that it is to be ``like``, whose kind of neuron it has if that
    one spikes. A spiking network has batch-norm only from ``scratch``: conversion folds it.
    """
    dqn = recipe.dqn
    if like is None:
        policy: Any = "MlpPolicy" if recipe.network.kind == "mlp" else "CnnPolicy"
        arguments = policy_arguments(recipe, T)
    elif like.T is not None:
        policy, arguments = like.policy_class, like.policy_kwargs | {"T": T}
    else:
        policy, arguments = like.policy_class, like.policy_kwargs | {"T": T, "neuron": recipe.neuron}
    if T is not None and not scratch and (like is None or like.T is None):
        arguments = without_batch_norm(arguments)
    if T is not None and recipe.reduction.view != "grey":
        arguments = _with_view(arguments, recipe, policy)
    agent = SpikingDQN(
        policy,
        env,
        learning_rate=learning_rate(dqn),
        buffer_size=dqn.buffer_size,
        learning_starts=dqn.learning_starts,
        batch_size=dqn.batch_size,
        gamma=dqn.gamma,
        train_freq=dqn.train_freq,
        gradient_steps=dqn.gradient_steps,
        **replay_arguments(dqn, env),
        target_update_interval=dqn.target_update_interval,
        exploration_fraction=dqn.exploration_fraction,
        exploration_initial_eps=dqn.exploration_initial_eps,
        exploration_final_eps=dqn.exploration_final_eps,
        max_grad_norm=dqn.max_grad_norm,
        double_q=dqn.double_q,
        reward_scale=dqn.reward_scale,
        precision=recipe.precision,
        spike_penalty=0.0 if T is None else recipe.reduction.spike_penalty,
        hoyer_penalty=0.0 if T is None else recipe.reduction.hoyer_penalty,
        policy_kwargs=arguments | optimizer_arguments(recipe),
        seed=seed,
        device=recipe.device,
    )
    views = [module for module in agent.policy.modules() if isinstance(module, View)]
    if views:
        usual = torch.from_numpy(np.median(random_play(recipe)[:, -1], axis=0)).to(torch.uint8)
        for view in views:
            view.background.copy_(usual)
    return agent


def _with_view(arguments: dict[str, Any], recipe: Recipe, policy: Any) -> dict[str, Any]:
    """Return the policy's arguments with the recipe's view of frames."""
    if policy != "CnnPolicy" and not (isinstance(policy, type) and issubclass(policy, SpikingCnnPolicy)):
        raise UserError("reduction.view is of frames: this network sees none")
    given = arguments.get("features_extractor_kwargs") or {}
    return arguments | {"features_extractor_kwargs": given | {"view": recipe.reduction.view}}


def learning_rate(dqn: DQN) -> float | LinearSchedule:
    """Return the learning rate, or its schedule over the training."""
    if dqn.final_learning_rate is None:
        return dqn.learning_rate
    return LinearSchedule(dqn.learning_rate, dqn.final_learning_rate, 1.0)


def replay_arguments(dqn: DQN, env: VecEnv) -> dict[str, Any]:
    """Return the agent's keyword arguments for its replay buffer."""
    if not isinstance(env, AtariVecEnv):
        return {"n_steps": dqn.n_steps}
    kwargs = {"n_steps": dqn.n_steps, "gamma": dqn.gamma}  # SB3 hands these to no buffer but its own
    return {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": kwargs}


def optimizer_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the policy's keyword arguments for a recipe's optimiser."""
    name = recipe.dqn.optimizer
    # one pass over 1.7 M weights instead of a dozen; for a small network it changes nothing but the rounding
    small = recipe.network.kind in ("mlp", "small")
    fused = {"fused": True} if not small and name.startswith("Adam") else {}
    return {"optimizer_class": getattr(torch.optim, name), "optimizer_kwargs": fused}


def random_play(recipe: Recipe) -> np.ndarray[Any, Any]:
    """Return the observations ``(N, ...)`` of some random play."""
    envs = training_envs(recipe, recipe.seed)
    generator = np.random.default_rng(recipe.seed)
    assert isinstance(envs.action_space, spaces.Discrete)
    seen: list[Any] = [envs.reset()]
    for _ in range(RANDOM_STEPS):
        seen.append(envs.step(generator.integers(envs.action_space.n, size=envs.num_envs))[0])
    envs.close()
    return np.concatenate(seen)


def background(recipe: Recipe) -> float:
    """Return the median pixel, between 0 and 1, of some random play."""
    return round(float(np.median(random_play(recipe))) / 255, 3)


def policy_arguments(recipe: Recipe, T: int | None) -> dict[str, Any]:
    """Return the policy's keyword arguments for a recipe's network."""
    network = recipe.network
    arguments: dict[str, Any] = {
        "T": T,
        "neuron": recipe.neuron,
        "dueling": network.dueling,
        "bias": network.bias,
        "net_arch": list(network.net_arch),
    }
    if network.kind != "mlp":
        arguments["features_extractor_kwargs"] = {
            "network": network.kind,
            "features_dim": network.features,
            "batch_norm": network.batch_norm,
            "background": background(recipe) if network.background == "measured" else network.background,
        }
        if network.options:
            arguments["features_extractor_kwargs"]["options"] = network.options
    return arguments
