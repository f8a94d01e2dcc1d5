"""CartPole without its velocities: the recurrent spiking Q-network and the LSTM DQN of equal size, by seed.

Writes ``results/cartpole-masked/scores.csv`` and ``curve.csv``, other seeds' rows kept, and prints the scores.
"""

import argparse
import csv
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import RescaleObservation
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from snnrl.agents.metrics import watching
from snnrl.agents.recurrent_dqn import RecurrentDQN
from snnrl.envs import make
from snnrl.files import write_atomically
from snnrl.tables import to_csv

RESULTS = Path(__file__).parent / "results" / "cartpole-masked"
NETWORKS = {"spiking": 1, "ordinary": None}
LAYERS: dict[str, dict[str, Any]] = {
    "64, LSTM 64": {"policy_kwargs": {"net_arch": [64, 64]}},
    "LSTM 64": {"policy_kwargs": {"net_arch": [64]}, "reward_scale": 0.1},
}
"""Hidden layers, and rewards that bring Q-values to what a sum of spikes reaches soon."""
ENVS = 8
EVALUATE_EVERY = 2_000
"""Environment steps between plays of 20 greedy episodes; the network that did best in them plays the reported 100."""
Row = dict[str, Any]


def masked() -> gymnasium.Env[Any, Any]:
    """Return CartPole without velocities, between -10 and 10: at its own scale two observations hardly differ."""
    return RescaleObservation(make("snnrl/CartPoleMasked-v1"), -10, 10)


def envs(seed: int, count: int = ENVS) -> VecEnv:
    """Return parallel environments, their first episodes seeded from ``seed``."""
    return make_vec_env(masked, count, seed)


def build(network: str, layers: str, seed: int) -> RecurrentDQN:
    """Return an untrained agent."""
    return RecurrentDQN(
        "MlpPolicy",
        envs(seed * ENVS),
        T=NETWORKS[network],
        learning_rate=1e-3,
        buffer_size=50_000,
        learning_starts=1_000,
        batch_size=32,
        train_freq=1,
        gradient_steps=4,
        target_update_interval=800,
        exploration_fraction=0.5,
        replay_buffer_kwargs={"length": 15, "burn_in": 5, "n_steps": 3},
        seed=seed,
        device="cpu",
        **LAYERS[layers],
    )


def trained(network: str, layers: str, seed: int, steps: int) -> tuple[Row, list[Row]]:
    """Train, and return the scores of the best network and the learning curve."""
    began, agent = time.monotonic(), build(network, layers, seed)
    with tempfile.TemporaryDirectory() as folder:
        gate = EvalCallback(
            envs(100_000 + 20 * seed, 20),
            n_eval_episodes=20,
            eval_freq=EVALUATE_EVERY // ENVS,
            log_path=folder,
            best_model_save_path=folder,
            verbose=0,
        )
        agent.learn(steps, gate)
        curve = [
            {"network": network, "layers": layers, "seed": seed, "steps": int(at), "reward": float(np.mean(rewards))}
            for at, rewards in zip(gate.evaluations_timesteps, gate.evaluations_results, strict=True)
        ]
        best = RecurrentDQN.load(Path(folder) / "best_model.zip", device="cpu")
    with watching(best.q_net) as seen:
        rewards, _ = evaluate_policy(best, envs(200_000 + 20 * seed, 20), 100, return_episode_rewards=True)
    return {
        "network": network,
        "layers": layers,
        "seed": seed,
        "steps": steps,
        "best_at": max(curve, key=lambda row: row["reward"])["steps"],
        "reward": round(float(np.mean(rewards)), 2),
        "std": round(float(np.std(rewards)), 2),
        **{
            f"spikes_{layer}": round(seen.spike_rate[layer], 3) if layer in seen.spike_rate else None
            for layer in ("fc1", "lstm")
        },
        "parameters": sum(parameter.numel() for parameter in best.q_net.parameters()),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }, curve


def keep(path: Path, rows: list[Row]) -> None:
    """Write rows in place of those of the same network, layers and seed."""
    new = {(row["network"], row["layers"], str(row["seed"])) for row in rows}
    old: list[Row] = list(csv.DictReader(path.open())) if path.exists() else []
    kept = [row for row in old if (row["network"], row["layers"], row["seed"]) not in new]
    everything = sorted(
        [*kept, *rows], key=lambda row: (-len(row["layers"]), row["network"], int(row["seed"]), int(row["steps"]))
    )
    write_atomically(path, to_csv([*rows[0]], [row.values() for row in everything]).encode())


def main() -> None:
    """Train everything, one after the other."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    options.add_argument("--layers", nargs="+", choices=LAYERS, default=[*LAYERS])
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--steps", type=int, default=30_000, help="environment steps of each")
    given = options.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    print("layers       network   seed  reward          best at  spikes fc1, lstm  minutes")
    for layers, seed, network in itertools.product(given.layers, given.seeds, given.networks):
        row, curve = trained(network, layers, seed, given.steps)
        keep(RESULTS / "scores.csv", [row])
        keep(RESULTS / "curve.csv", curve)
        reward = f"{row['reward']:.1f} +- {row['std']:.1f}"
        spikes = f"{row['spikes_fc1'] or '-'}, {row['spikes_lstm'] or '-'}"
        said = f"{layers:12} {network:9} {seed:4}  {reward:14} {row['best_at']:8}  {spikes:16}  {row['minutes']}"
        print(said, flush=True)


if __name__ == "__main__":
    main()
