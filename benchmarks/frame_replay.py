"""Time and memory of FrameReplayBuffer and of SB3's replay buffers: 100 000 Atari transitions of eight environments."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rows import Rows, parser
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from snnrl.agents.frame_replay import FrameReplayBuffer
from snnrl.allocation import keep_freed_memory

TRANSITIONS = 100_000
ENVIRONMENTS = 8
STACK = 4
SIZE = (84, 84)
EPISODE = 300
"""Mean number of steps of an episode; a fifth of them are cut off."""
BATCH = 32


def play(steps: int) -> Iterator[tuple[Any, ...]]:
    """Yield the arguments of ``add`` for so many steps in games of random frames."""
    draws = np.random.default_rng(0)
    pictures = draws.integers(0, 256, (2000, *SIZE), np.uint8)
    observations = np.zeros((ENVIRONMENTS, STACK, *SIZE), np.uint8)
    for _ in range(steps):
        frames = pictures[draws.integers(len(pictures), size=ENVIRONMENTS)]
        following = np.concatenate([observations[:, 1:], frames[:, None]], axis=1)
        dones = draws.random(ENVIRONMENTS) < 1 / EPISODE
        infos = [{"TimeLimit.truncated": bool(cut)} for cut in dones & (draws.random(ENVIRONMENTS) < 0.2)]
        actions, rewards = draws.integers(6, size=ENVIRONMENTS), draws.normal(size=ENVIRONMENTS)
        yield observations, following, actions, rewards, dones, infos
        observations = following.copy()
        observations[dones, :-1] = 0


def microseconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    function(*arguments)
    return (time.perf_counter() - start) * 1e6


def gigabytes(buffer: ReplayBuffer) -> float:
    """Return the size of all arrays of a buffer, of those too that it keeps by row and environment."""
    values = list(vars(buffer).values())
    values += [array for value in values if isinstance(value, dict) for array in value.values()]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray)) / 1e9


def compare(rows: Rows, n_steps: int, rounds: int) -> None:
    """Fill our buffer and SB3's in turns, sample from them in turns, and add the rows of both and of their memory."""
    build: Callable[..., ReplayBuffer]
    if n_steps == 1:
        build = functools.partial(ReplayBuffer, optimize_memory_usage=True, handle_timeout_termination=False)
        peer = f"SB3 {version('stable-baselines3')} ReplayBuffer, optimize_memory_usage"
    else:
        build = functools.partial(NStepReplayBuffer, n_steps=n_steps)
        peer = f"SB3 {version('stable-baselines3')} NStepReplayBuffer"
    arguments = (TRANSITIONS, spaces.Box(0, 255, (STACK, *SIZE), np.uint8), spaces.Discrete(6), "cpu", ENVIRONMENTS)
    buffers = {"ours": FrameReplayBuffer(*arguments, n_steps=n_steps), "theirs": build(*arguments)}
    adding: dict[str, list[float]] = {name: [] for name in buffers}
    sampling: dict[str, list[float]] = {name: [] for name in buffers}
    for step in play(TRANSITIONS // ENVIRONMENTS + STACK):
        for name, buffer in buffers.items():
            adding[name].append(microseconds(buffer.add, *step))
    for _ in range(rounds):
        for name, buffer in buffers.items():
            sampling[name].append(microseconds(buffer.sample, BATCH))
    timings = ((f"sampling a batch of {BATCH}", sampling), (f"adding a step of {ENVIRONMENTS} environments", adding))
    for what, times in timings:
        ours, theirs = (statistics.median(times[name]) for name in buffers)
        rows.add(f"{what}, n_steps={n_steps}", ours, "us", peer, theirs)
    ours, theirs = (gigabytes(buffer) for buffer in buffers.values())
    rows.add(f"{TRANSITIONS} transitions, n_steps={n_steps}", ours, "GB", peer, theirs)


def main() -> None:
    """Measure against the buffer of one step that takes the least memory, and against that of n-step returns."""
    options = parser(__doc__, rounds=5000, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = Rows(options.threads)
    for n_steps in (1, 3):
        compare(rows, n_steps, options.rounds)
    rows.write(options.output)


if __name__ == "__main__":
    main()
