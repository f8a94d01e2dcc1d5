"""Time, instructions and size of exported C code, one observation at a time, against the ordinary network elsewhere.

The peers are ONNX Runtime and torch on the same agent's ordinary network, one thread each, in turns with the C code.
"""

import ctypes
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rows import Rows, parser

from snnrl.agents.evaluate import Seen, episode_seeds, play
from snnrl.agents.exported import agent_chain
from snnrl.agents.library import open_agent
from snnrl.export import Program, lower, rounded, to_c, to_onnx
from snnrl.export.compiled import STRICT, compiler

OBSERVATIONS = 256
EXAMPLES = 3000
INSTRUCTIONS_OF = 32
"""Observations, over which instructions are counted, beyond as many that warm up."""
FAST = ("-O3", "-march=native")
SMALL = ("-Os",)
LOOP = """
#include "snnrl_agent.h"
void many(const snnrl_input *observations, int count, int *actions)
{
    for (int i = 0; i < count; i++) {
        actions[i] = snnrl_act(observations + (long)i * SNNRL_INPUTS);
    }
}
"""
AIMS = {
    ("pong", "onnxruntime"): "at least 2",
    ("pong-binary", "onnxruntime"): "at least 5",
    ("cartpole-state", "torch"): "at least 20",
}
MOST_BYTES = {"cartpole-state": 32 * 1024, "cartpole": 512 * 1024, "pong": 2 * 1024**2, "pong-binary": 2 * 1024**2}


def written(program: Program, folder: Path) -> None:
    """Write the files of a program."""
    for name, text in to_c(program, "benchmark", "0").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def built(folder: Path, output: str, *flags: str) -> Path:
    """Run the C compiler in a folder."""
    command = compiler()
    subprocess.run([command, *STRICT, *flags, f"-I{folder}", "-o", str(folder / output)], check=True, cwd=folder)
    return folder / output


def in_c(folder: Path, observations: NDArray[Any]) -> Callable[[], None]:
    """Return what decides for all observations, one after the other."""
    (folder / "loop.c").write_text(LOOP)
    library = ctypes.CDLL(str(built(folder, "agent.so", *FAST, "-shared", "-fPIC", "snnrl_agent.c", "loop.c")))
    actions = (ctypes.c_int * len(observations))()
    pointer = observations.ctypes.data_as(ctypes.c_void_p)
    return lambda: library.many(pointer, len(observations), actions)


def instructions(folder: Path, observations: NDArray[Any]) -> float:
    """Return instructions a decision, as callgrind counts them, by the difference of two runs."""
    decide = built(folder, "decide", *FAST, "snnrl_agent.c", "examples/decide.c")
    counts = []
    for number in (INSTRUCTIONS_OF, 2 * INSTRUCTIONS_OF):
        given = np.concatenate([observations[:INSTRUCTIONS_OF]] * (number // INSTRUCTIONS_OF)).tobytes()
        words = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}", str(decide)]
        done = subprocess.run(words, input=given, capture_output=True, check=True)
        found = re.search(r"Collected : (\d+)", done.stderr.decode())
        assert found is not None
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / INSTRUCTIONS_OF


def size(folder: Path) -> int:
    """Return bytes of code and constants, compiled to be small."""
    built(folder, "agent.o", *SMALL, "-c", "snnrl_agent.c")
    lines = subprocess.run(["size", "agent.o"], capture_output=True, text=True, check=True, cwd=folder).stdout
    return int(lines.splitlines()[1].split()[0])


def peers(name: str, observations: NDArray[Any]) -> dict[str, Callable[[], None]]:
    """Return what decides by the ordinary network, one observation after another, in ONNX Runtime and in torch."""
    ordinary = open_agent(name).agent
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(agent_chain(ordinary.q_net), name), options)
    singles = [observation[None] for observation in observations]

    def by_onnxruntime() -> None:
        for single in singles:
            session.run(["action"], {"observation": single})

    @torch.inference_mode()
    def by_torch() -> None:
        for single in singles:
            ordinary.q_net(ordinary.policy.obs_to_tensor(single)[0]).argmax()

    return {"onnxruntime": by_onnxruntime, "torch": by_torch}


def observed(name: str) -> tuple[Any, NDArray[Any]]:
    """Return an agent's chain, and observations that it meets."""
    opened = open_agent(name, T=1)
    seen = Seen(EXAMPLES + OBSERVATIONS, 10)
    play(
        opened.agent,
        opened.env_id,
        episode_seeds(0, "play", 10),
        env_kwargs=opened.env_kwargs,
        most_steps=400,
        on_step=seen.add,
    )
    return agent_chain(opened.agent.q_net), np.random.default_rng(0).permutation(np.stack(seen.sample))


def compare(rows: Rows, agent: str, name: str, ordinary: str, rounds: int) -> None:
    """Add the rows of an agent in the file or of the name ``name``, called ``agent``, and its ordinary one."""
    chain, observations = observed(name)
    examples, met = np.split(observations, [-OBSERVATIONS])
    met = np.ascontiguousarray(met)
    program = lower(chain, examples)
    theirs = peers(ordinary, met)
    macs = sum(int(np.prod(layer.shape_out)) * layer.weight[0].size for layer in chain.layers)
    for weights, bits in (("float32", None), ("int16", 16), ("int8", 8)):
        ours = program if bits is None else rounded(program, bits, examples)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            written(ours, folder)
            timings: dict[str, list[float]] = {}
            contestants = {"c": in_c(folder, met)} | theirs
            for _ in range(rounds + 1):
                for contestant, decide in contestants.items():
                    started = time.process_time()
                    decide()
                    timings.setdefault(contestant, []).append((time.process_time() - started) / len(met) * 1e6)
            # the first round warms up
            medians = {contestant: median(values[1:]) for contestant, values in timings.items()}
            for peer in theirs:
                faster = round(medians[peer] / medians["c"], 2)
                aim = AIMS.get((agent, peer), "-")
                rows.add(
                    f"{agent}, decision, {weights}", medians["c"], "us", peer, medians[peer], faster=faster, aim=aim
                )
            counted, most = instructions(folder, met), MOST_BYTES[agent]
            rows.add(f"{agent}, instructions a decision, {weights}", counted, "instructions", "multiplies", macs)
            rows.add(f"{agent}, code and constants, {weights}", size(folder), "bytes", "aim with int8", most)


def main() -> None:
    """Measure the shipped agents, and a run of ``pong-binary`` if one is given."""
    options = parser(__doc__, rounds=15, threads=1)
    options.add_argument("--binary", help="run folder of snnrl train pong-binary --from pong/ann")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    rows = Rows(given.threads)
    for agent in ("cartpole-state", "cartpole", "pong"):
        compare(rows, agent, agent, f"{agent}/ann", given.rounds)
    if given.binary:
        compare(rows, "pong-binary", given.binary, "pong/ann", given.rounds)
    rows.write(given.output)


if __name__ == "__main__":
    main()
