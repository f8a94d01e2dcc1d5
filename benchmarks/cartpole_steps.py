"""Environment steps per second of SpikingDQN at T=1 and of stable-baselines3's DQN: CartPole-v1, equal settings."""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import torch
from rows import Rows, parser
from stable_baselines3 import DQN

from snnrl import SpikingDQN

STEPS = 6000
"""Of one run; the first 1000 of them only fill the replay buffer."""

# the RL Zoo's DQN settings for CartPole-v1
SETTINGS: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
}
NET_ARCH = [256, 256]


def ordinary(seed: int) -> DQN:
    """Return stable-baselines3's agent."""
    return DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": NET_ARCH}, seed=seed, **SETTINGS)


def spiking(seed: int, **more: Any) -> DQN:
    """Return the agent with the spiking network."""
    kwargs = {"net_arch": NET_ARCH, "T": 1}
    return SpikingDQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs=kwargs, seed=seed, **SETTINGS, **more)


def steps_per_second(make: Callable[[int], DQN], seed: int) -> float:
    """Train a new agent and return environment steps per second, building it not counted."""
    agent = make(seed)
    start = time.perf_counter()
    agent.learn(STEPS)
    return STEPS / (time.perf_counter() - start)


def main() -> None:
    """Let the agents take turns, and print the medians; a ratio above 1 is faster than stable-baselines3."""
    options = parser(__doc__, rounds=5, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    contestants: dict[str, Callable[[int], DQN]] = {
        "sb3": ordinary,
        "SpikingDQN, T=1, double_q=False": lambda seed: spiking(seed, double_q=False),
        "SpikingDQN, T=1, double_q=True (default)": spiking,
    }
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for seed in range(options.rounds):
        for name, make in contestants.items():
            speeds[name].append(steps_per_second(make, seed))
    rows = Rows(options.threads)
    peer = f"stable-baselines3 {version('stable-baselines3')} DQN"
    for name, measured in speeds.items():
        if name != "sb3":
            best = {"best": round(max(measured), 1), "peer_best": round(max(speeds["sb3"]), 1)}
            rows.add(name, statistics.median(measured), "steps/s", peer, statistics.median(speeds["sb3"]), **best)
    rows.write(options.output)


if __name__ == "__main__":
    main()
