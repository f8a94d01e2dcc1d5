"""From a recipe to environments and agents."""

from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecTransposeImage

from snnrl.agents.spiking_dqn.agent import SpikingDQN
from snnrl.agents.spiking_dqn.config import Network, Recipe
from snnrl.agents.spiking_dqn.conversion import without_batch_norm
from snnrl.envs import SeededEpisodes, make


def training_envs(recipe: Recipe, seed: int, count: int | None = None) -> VecEnv:
    """Return parallel environments that can be resumed exactly, their episodes seeded from ``seed``."""

    def one(rank: int) -> Any:
        return lambda: SeededEpisodes(channels_first(Monitor(make(recipe.env))), seed, rank)

    return DummyVecEnv([one(rank) for rank in range(count or recipe.n_envs)])


def channels_first(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return an environment whose images are ``(C, H, W)``, as networks take them, if it gives ``(H, W, C)``."""
    space = env.observation_space
    if not (isinstance(space, spaces.Box) and is_image_space(space)) or is_image_space_channels_first(space):
        return env
    transposed = VecTransposeImage.transpose_space(space)
    return TransformObservation(env, VecTransposeImage.transpose_image, transposed)


def build_agent(recipe: Recipe, T: int | None, env: VecEnv, seed: int, like: SpikingDQN | None = None) -> SpikingDQN:
    """Return an untrained agent: spiking at ``T`` timesteps, or ordinary with None.

    Its network is the recipe's, or that of the agent that it is to be ``like``.
    """
    dqn = recipe.dqn
    if like is None:
        policy: Any = "MlpPolicy" if recipe.network.kind == "mlp" else "CnnPolicy"
        arguments = policy_arguments(recipe.network, T)
    else:
        policy, arguments = like.policy_class, without_batch_norm(like.policy_kwargs | {"T": T})
    return SpikingDQN(
        policy,
        env,
        learning_rate=dqn.learning_rate,
        buffer_size=dqn.buffer_size,
        learning_starts=dqn.learning_starts,
        batch_size=dqn.batch_size,
        gamma=dqn.gamma,
        train_freq=dqn.train_freq,
        gradient_steps=dqn.gradient_steps,
        n_steps=dqn.n_steps,
        target_update_interval=dqn.target_update_interval,
        exploration_fraction=dqn.exploration_fraction,
        exploration_initial_eps=dqn.exploration_initial_eps,
        exploration_final_eps=dqn.exploration_final_eps,
        max_grad_norm=dqn.max_grad_norm,
        double_q=dqn.double_q,
        policy_kwargs=arguments | {"optimizer_class": getattr(torch.optim, dqn.optimizer)},
        seed=seed,
        device=recipe.device,
    )


def policy_arguments(network: Network, T: int | None) -> dict[str, Any]:
    """Return the policy's keyword arguments for a recipe's network."""
    arguments: dict[str, Any] = {
        "T": T,
        "neuron": network.neuron,
        "dueling": network.dueling,
        "net_arch": list(network.net_arch),
    }
    if network.kind != "mlp":
        arguments["features_extractor_kwargs"] = {
            "network": network.kind,
            "features_dim": network.features,
            "batch_norm": network.batch_norm,
        }
    return arguments if T is None else without_batch_norm(arguments)
