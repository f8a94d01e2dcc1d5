"""Worlds of random observations, and small agents in them."""

import copy

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.envs import PROTOCOLS

FAST = {"learning_starts": 20, "batch_size": 8, "buffer_size": 100, "train_freq": 4, "seed": 0}
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)

# what the agents of small_agent read, and their policy_kwargs
SMALL = {"net_arch": [12]}
SMALL_CNN = {"features_extractor_kwargs": {"network": "small", "features_dim": 12}}
POLICIES = {
    "MlpPolicy": (spaces.Box(-1, 1, (4,), np.float32), SMALL),
    "CnnPolicy": (IMAGE, SMALL_CNN),
    "MultiInputPolicy": (
        spaces.Dict({"image": IMAGE, "number": spaces.Discrete(3), "vector": spaces.Box(-1, 1, (2,), np.float32)}),
        {"net_arch": [12], "features_extractor_kwargs": {"network": "small", "cnn_output_dim": 12}},
    ),
}

# what the agents of make_agent read: bounds that are infinite or not exact in binary, keys out of order
SPACES = {
    "MlpPolicy": spaces.Box(np.array([-1, -np.inf, 0], np.float32), np.array([1, np.inf, 0.1], np.float32)),
    "CnnPolicy": IMAGE,
    "MultiInputPolicy": spaces.Dict([("z", spaces.MultiDiscrete([2, 3])), ("a", IMAGE), ("m", spaces.MultiBinary(2))]),
}
KWARGS = {
    "MlpPolicy": {"net_arch": [6]},
    "CnnPolicy": {"features_extractor_kwargs": {"network": "small", "features_dim": 8}},
    "MultiInputPolicy": {
        "net_arch": [6],
        "features_extractor_kwargs": {"network": "small", "cnn_output_dim": 8, "batch_norm": True},
    },
}


class World(gymnasium.Env):
    """Random observations of any space, three actions unless told otherwise, the reward is the action, five steps."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action), self.steps == 5, False, {}


def small_agent(policy="MlpPolicy", T=1, **changes):
    """An agent in one world of three actions, or in the ``env`` given."""
    space, kwargs = POLICIES[policy]
    kwargs = kwargs | changes.pop("policy_kwargs", {})
    env = changes.pop("env", None) or World(space)
    return SpikingDQN(policy, env, T=T, policy_kwargs=kwargs, **FAST | changes)


def game_agent(T=1, game="pong", protocol=PROTOCOLS["v4"], **changes):
    """An agent in one Atari game."""
    return small_agent("CnnPolicy", T, env=AtariVecEnv(game, 1, protocol, seed=0), **changes)


def make_agent(policy="MlpPolicy", *, T=2, envs=1, policy_kwargs=None, **changes):
    """An agent in several worlds of two actions, whose spaces are hard to write down exactly."""
    env = DummyVecEnv([lambda: World(SPACES[policy], spaces.Discrete(2))] * envs)
    return SpikingDQN(policy, env, T=T, policy_kwargs=KWARGS[policy] | (policy_kwargs or {}), **FAST | changes)


def batch_of(space, size=6):
    space = copy.deepcopy(space)
    space.seed(3)
    samples = [space.sample() for _ in range(size)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


def row(batch, index):
    return {key: value[index] for key, value in batch.items()} if isinstance(batch, dict) else batch[index]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
