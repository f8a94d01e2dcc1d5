"""Exported C code on 10 000 observations that no example is from, in games of its own, and on random ones.

A row for each shipped agent and kind of weights: spikes and Q-values against Python, actions against float32, reward.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_speed import EXAMPLES, built, written
from numpy.typing import NDArray

from snnrl.agents.evaluate import Seen, episode_seeds, play
from snnrl.agents.exported import agent_chain
from snnrl.agents.library import Opened, open_agent
from snnrl.export import Chain, Program, agreement, lower, rounded, run
from snnrl.export.compiled import Compiled
from snnrl.files import write_atomically
from snnrl.statistics import mean_estimate

OBSERVATIONS = 10_000
GAMES = {"cartpole-state": 30, "cartpole": 30, "pong": 10}
RANDOM = {"cartpole-state": 1_000_000, "cartpole": 100_000, "pong": 100_000}
"""Observations under sanitizers."""
AT_ONCE = 200
FUZZ = """
#include <stdio.h>
#include <string.h>
#include "snnrl_agent.h"
int main(void)
{
    static snnrl_input observation[SNNRL_INPUTS];
    static unsigned char real[sizeof observation], bytes[sizeof observation];
    uint64_t state = 88172645463325252u;
    unsigned long actions[SNNRL_ACTIONS] = {0};
    if (fread(real, 1, sizeof real, stdin) < sizeof real) {
        return 1;
    }
    for (long number = 0; number < NUMBER; number++) {
        const size_t changed = number % ALL ? 1 + sizeof bytes / (64u << number % 8) : sizeof bytes;
        memcpy(bytes, real, sizeof bytes);
        for (size_t i = 0; i < changed; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes[changed < sizeof bytes ? (state >> 40) % sizeof bytes : i] = (unsigned char)(state >> 32);
        }
        memcpy(observation, bytes, sizeof bytes);
        actions[snnrl_act(observation)]++;
    }
    for (int action = 0; action < SNNRL_ACTIONS; action++) {
        printf("%lu ", actions[action]);
    }
    return 0;
}
"""


class CompiledActor:
    """Plays by the C code, one observation after another."""

    def __init__(self, agent: Compiled) -> None:
        self.agent = agent

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """Return actions ``(B,)`` and no state."""
        return np.array([self.agent.act(one) for one in observation]), None


def met(opened: Opened, purpose: str, most: int, episodes: int, most_steps: int) -> NDArray[Any]:
    """Return ``most`` observations of an agent's play."""
    seen = Seen(most, episodes)
    seeds = episode_seeds(0, purpose, episodes)
    play(opened.agent, opened.env_id, seeds, env_kwargs=opened.env_kwargs, most_steps=most_steps, on_step=seen.add)
    return np.stack(seen.sample)


def compared(agent: Compiled, program: Program, chain: Chain, observations: NDArray[Any]) -> dict[str, Any]:
    """Return how the code's decisions differ from Python's."""
    spikes, actions, q_error, farthest = 0, [], 0.0, 0.0
    for part in np.array_split(observations, max(1, len(observations) // AT_ONCE)):
        wanted = run(program, part)
        traces, q_values = [], []
        for observation in part:
            actions.append(agent.act(observation))
            traces.append(agent.trace.copy())
            q_values.append(agent.q_values.copy())
        found, first = [], 0
        for layer in program.layers[:-1]:
            channels, height, width = layer.shape_spikes
            flat = np.stack(traces)[:, first : first + channels * height * width]
            found.append(flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2) > 0)
            first += channels * height * width
        if program.whole:
            spikes += sum(int((ours != theirs).sum()) for ours, theirs in zip(found, wanted.spikes, strict=True))
            q_error = max(q_error, float(np.abs(np.stack(q_values) - wanted.q_values).max()))
        else:
            shaped = [ours.reshape(-1, *layer.shape_spikes) for ours, layer in zip(found, chain.layers, strict=False)]
            against = agreement(chain, part, shaped, np.stack(q_values))
            spikes += against.differing
            farthest = max(farthest, against.farthest)
            q_error = max(q_error, against.q_error)
    return {"spikes_that_differ": spikes, "farthest": farthest, "q_error": q_error, "actions": np.array(actions)}


def fuzzed(folder: Path, real: NDArray[Any], number: int) -> str:
    """Return how often each action is taken under sanitizers, which end the program if they find something.

    Of a ``real`` frame's pixels one in 64 is random, then one in 128 and so on to one in 8192, in turns; of every
    thousandth frame, and of vectors, all numbers are.
    """
    (folder / "fuzz.c").write_text(FUZZ)
    flags = (
        "-O2",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-DNUMBER={number}",
        f"-DALL={1000 if real.ndim > 1 else 1}",
    )
    program = built(folder, "fuzz", *flags, "snnrl_agent.c", "fuzz.c")
    done = subprocess.run([str(program)], input=real.tobytes(), capture_output=True, check=True)
    return done.stdout.decode().strip()


def rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of an agent."""
    opened = open_agent(name)
    chain = agent_chain(opened.agent.q_net)
    examples = met(opened, "play", EXAMPLES, 10, 500)
    others = met(opened, "report", OBSERVATIONS, 25, 500)
    program = lower(chain, examples)
    found = []
    exact = None
    for weights, bits in (("float32", None), ("int16", 16), ("int8", 8)):
        ours = program if bits is None else rounded(program, bits, examples)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            written(ours, folder)
            agent = Compiled(folder)
            facts = compared(agent, ours, chain, others)
            actions = facts.pop("actions")
            exact = actions if exact is None else exact
            seeds = episode_seeds(0, "report", GAMES[name])
            rewards = play(CompiledActor(agent), opened.env_id, seeds, env_kwargs=opened.env_kwargs)
            reward = mean_estimate(rewards)
            row = {"agent": name, "weights": weights, "observations": len(others), **facts}
            row |= {"actions_that_differ_from_float32": round(float((actions != exact).mean()), 5)}
            row |= {"reward": reward.value, "low": reward.low, "high": reward.high, "games": GAMES[name]}
            row |= {"random_observations": RANDOM[name], "actions_on_them": fuzzed(folder, examples[0], RANDOM[name])}
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def main() -> None:
    """Check the shipped agents, or those named."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("agents", nargs="*", default=list(GAMES))
    options.add_argument("--output", help="file to write the rows to, as JSON lines")
    given = options.parse_args()
    torch.set_num_threads(1)
    lines = [json.dumps(row) for name in given.agents for row in rows(name)]
    if given.output:
        write_atomically(given.output, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
