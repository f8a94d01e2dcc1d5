"""Environment steps per second in training on Pong, of SpikingDQN (ordinary and T=1) and stable-baselines3's DQN.

Equal for all: the Nature network, 8 games, a batch of 64, one update per 8 steps, no double Q-learning. Each trains as
its users would: stable-baselines3 on its own Atari wrappers and buffer in float32, ours on AtariVecEnv and
FrameReplayBuffer, in bfloat16 (as the recipe `atari` has it) and in float32.
"""

import statistics
import time
from importlib.metadata import version
from typing import Any

import ale_py  # noqa: F401 - registers the games
import torch
from rows import Rows, parser
from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

from snnrl import SpikingDQN
from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.agents.frame_replay import FrameReplayBuffer
from snnrl.allocation import keep_freed_memory
from snnrl.envs import PROTOCOLS

GAMES = 8
STEPS = 800
"""Of one turn."""

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-4,
    "batch_size": 64,
    "buffer_size": 20_000,
    "learning_starts": 800,
    "train_freq": 1,
    "gradient_steps": 1,
    "target_update_interval": 2000,
    "exploration_fraction": 0.01,
    "exploration_final_eps": 0.01,
    "seed": 0,
}


def ordinary() -> DQN:
    """Return stable-baselines3's agent."""
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=GAMES, seed=0), n_stack=4)
    return DQN("CnnPolicy", env, **SETTINGS)


def ours(T: int | None, precision: str) -> DQN:
    """Return our agent, ordinary or spiking."""
    env = AtariVecEnv("pong", GAMES, PROTOCOLS["v4"], seed=0)
    return SpikingDQN(
        "CnnPolicy",
        env,
        T=T,
        precision=precision,
        double_q=False,
        replay_buffer_class=FrameReplayBuffer,
        policy_kwargs={"optimizer_kwargs": {"fused": True}},
        **SETTINGS,
    )


def main() -> None:
    """Let the agents take turns, and print the medians; a ratio above 1 is faster than stable-baselines3."""
    options = parser(__doc__, rounds=5, threads=2).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    agents = {
        "sb3": ordinary(),
        "ordinary network, bf16": ours(None, "bf16"),
        "ordinary network, fp32": ours(None, "fp32"),
        "T=1, bf16": ours(1, "bf16"),
        "T=1, fp32": ours(1, "fp32"),
    }
    for agent in agents.values():
        agent.learn(2 * STEPS)
    speeds: dict[str, list[float]] = {name: [] for name in agents}
    for _ in range(options.rounds):
        for name, agent in agents.items():
            start = time.perf_counter()
            agent.learn(STEPS, reset_num_timesteps=False)
            speeds[name].append(STEPS / (time.perf_counter() - start))
    rows = Rows(options.threads)
    peer = f"stable-baselines3 {version('stable-baselines3')} DQN CnnPolicy"
    for name, measured in speeds.items():
        if name != "sb3":
            best = {"best": round(max(measured), 1), "peer_best": round(max(speeds["sb3"]), 1)}
            rows.add(
                f"Pong, {name}", statistics.median(measured), "steps/s", peer, statistics.median(speeds["sb3"]), **best
            )
    rows.write(options.output)


if __name__ == "__main__":
    main()
