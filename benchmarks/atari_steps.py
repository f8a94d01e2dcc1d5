"""Agent steps per second of AtariVecEnv, in SB3's terms, and of ale-py's bare vector environment, both playing Pong."""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from rows import Rows

from snnrl.agents.atari_vec_env import AtariVecEnv
from snnrl.envs.atari import PROTOCOLS

GAMES = 8
STEPS = 400
"""Of each game and round."""


def steps_per_second(step: Callable[[Any], Any], actions: np.ndarray[Any, Any]) -> float:
    """Step all games once with every row of actions."""
    start = time.perf_counter()
    for row in actions:
        step(row)
    return actions.size / (time.perf_counter() - start)


def main() -> None:
    """Let both take turns, and print the medians; a ratio of 1 is as fast as the bare environment."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=11, help="measurements of each")
    options.add_argument("--output", help="file to write the row to, as a JSON line")
    given = options.parse_args()
    bare = AtariVectorEnv("pong", GAMES)
    bare.reset(seed=0)
    ours = AtariVecEnv("pong", GAMES, PROTOCOLS["v4"], seed=0)
    ours.reset()
    actions = np.random.default_rng(0).integers(6, size=(STEPS, GAMES))
    speeds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(given.rounds):
        speeds["ours"].append(steps_per_second(ours.step, actions))
        speeds["bare"].append(steps_per_second(bare.step, actions))
    median = {name: statistics.median(measured) for name, measured in speeds.items()}
    best = {"best": round(max(speeds["ours"]), 1), "peer_best": round(max(speeds["bare"]), 1)}
    rows = Rows(os.cpu_count() or 1)
    peer = f"ale-py {version('ale-py')} AtariVectorEnv"
    rows.add("AtariVecEnv, Pong, 8 games", median["ours"], "agent steps/s", peer, median["bare"], **best)
    rows.write(given.output)


if __name__ == "__main__":
    main()
