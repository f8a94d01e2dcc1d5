"""Time and memory of a training step of the Nature CNN: snnrl against three spiking libraries and the ReLU network."""

import gc
import multiprocessing
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from contestants import OBSERVATION, PEERS, REPEATED, build, label, ordinary
from rows import Rows, parser
from torch import Tensor, nn

from snnrl.allocation import keep_freed_memory

BATCH = 32
LONG = 5
"""Timesteps of a network before its timesteps are reduced to one."""


Key = tuple[str, torch.dtype]
"""A contestant and a number type."""


class Variant(NamedTuple):
    """One way to run a contestant; ``autocast`` keeps float32 parameters, otherwise they and the input are cast."""

    name: str
    dtype: torch.dtype
    memory_format: torch.memory_format
    autocast: bool

    def describe(self) -> str:
        """Return the memory format and, for bfloat16, how it comes about."""
        layout = "channels_last" if self.memory_format is torch.channels_last else "contiguous"
        if self.dtype is torch.float32:
            return layout
        return f"{layout}, {'autocast' if self.autocast else 'cast'}"


def variants(name: str, dtype: torch.dtype) -> Iterable[Variant]:
    """Return the ways in which a contestant may run; the fastest of them counts."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        yield Variant(name, dtype, memory_format, autocast=False)
        if dtype is torch.bfloat16:
            yield Variant(name, dtype, memory_format, autocast=True)


def prepare(variant: Variant, steps: int, batch: int) -> tuple[nn.Module, Tensor, Callable[[], None]]:
    """Return the network, its input and a function that runs forward and backward once, from gradients of None."""
    torch.manual_seed(0)
    ann, observations = ordinary(), torch.rand(BATCH, *OBSERVATION)
    dtype = torch.float32 if variant.autocast else variant.dtype
    network = build(variant.name, steps, ann, observations).to(dtype).to(memory_format=variant.memory_format)
    images = observations[:batch].to(dtype).contiguous(memory_format=variant.memory_format)

    def step() -> None:
        for parameter in network.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.autocast):
            values = network(images)
        values.float().square().mean().backward()

    return network, images, step


class Timing(NamedTuple):
    """Milliseconds of a contestant's fastest variant: the median over the rounds and the best round."""

    median: float
    best: float
    how: str


def measure(functions: dict[Variant, Callable[[], None]], rounds: int, repeat: int = 1) -> dict[Key, Timing]:
    """Time all functions in turns, in an order that changes by round; the first two rounds do not count."""
    order = list(functions)
    times: dict[Variant, list[float]] = {variant: [] for variant in order}
    shuffle = random.Random(0).shuffle
    for round_number in range(rounds + 2):
        shuffle(order)
        for variant in order:
            start = time.perf_counter()
            for _ in range(repeat):
                functions[variant]()
            if round_number >= 2:
                times[variant].append((time.perf_counter() - start) * 1e3 / repeat)
    found: dict[Key, Timing] = {}
    for variant, values in times.items():
        timing = Timing(statistics.median(values), min(values), variant.describe())
        key = (variant.name, variant.dtype)
        found[key] = min(found.get(key, timing), timing)
    return found


def compare(rows: Rows, name: str, ours: Timing, peer: str, theirs: Timing) -> None:
    """Add the row of one peer: medians, and next to them the best rounds, which other programs disturb less."""
    best = {"best": round(ours.best, 3), "peer_best": round(theirs.best, 3)}
    rows.add(name, ours.median, "ms", label(peer), theirs.median, **best, how=ours.how, peer_how=theirs.how)


def training_step(rows: Rows, steps: int, rounds: int) -> None:
    """Measure forward and backward at a number of timesteps, in float32 and bfloat16."""
    peers = (*PEERS, *(REPEATED if steps > 1 else ()), "relu")
    candidates = [
        variant
        for dtype in (torch.float32, torch.bfloat16)
        for name in ("snnrl", *peers)
        for variant in variants(name, dtype)
    ]
    timings = measure({variant: prepare(variant, steps, BATCH)[2] for variant in candidates}, rounds)
    pairs = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]
    for dtype, peer_dtype in pairs:
        for peer in peers:
            name = f"training step, T={steps}, {_name(dtype)} against {_name(peer_dtype)}"
            compare(rows, name, timings["snnrl", dtype], peer, timings[peer, peer_dtype])


def inference(rows: Rows, rounds: int) -> None:
    """Measure one decision: the forward of one observation at T=1, without gradients."""
    functions: dict[Variant, Callable[[], None]] = {}
    for name in ("snnrl", *PEERS, "relu"):
        for variant in variants(name, torch.float32):
            network, image, _ = prepare(variant, steps=1, batch=1)
            functions[variant] = torch.no_grad()(lambda network=network, image=image: network(image))
    timings = measure(functions, rounds, repeat=20)
    for peer in (*PEERS, "relu"):
        name = "inference of one observation, T=1, float32"
        compare(rows, name, timings["snnrl", torch.float32], peer, timings[peer, torch.float32])


def peak_memory(variant: Variant, threads: int) -> float:
    """Return the MiB by which one training step raises the resident set; to be run in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    prepare(variant, LONG, batch=1)[2]()
    step = prepare(variant, LONG, BATCH)[2]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    step()
    return (resident("VmHWM") - before) / 1024


def memory(rows: Rows, threads: int, processes: int = 3) -> None:
    """Measure peak memory of the first training step in fresh processes: median of each variant, then the least."""
    context = multiprocessing.get_context("spawn")
    least: dict[str, tuple[float, str]] = {}
    for name in ("snnrl", *PEERS, "relu"):
        for variant in variants(name, torch.float32):
            peaks = []
            for _ in range(processes):
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    peaks.append(pool.submit(peak_memory, variant, threads).result())
            found = (statistics.median(peaks), variant.describe())
            least[name] = min(least.get(name, found), found)
    for peer in (*PEERS, "relu"):
        value, how = least["snnrl"]
        peer_value, peer_how = least[peer]
        name = f"peak memory of a training step, T={LONG}, float32"
        rows.add(name, value, "MiB", label(peer), peer_value, how=how, peer_how=peer_how)


def main() -> None:
    """Measure everything and print the rows."""
    options = parser(__doc__, rounds=25, threads=2).parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = Rows(options.threads)
    for steps in (LONG, 1):
        training_step(rows, steps, options.rounds)
    inference(rows, options.rounds)
    memory(rows, options.threads)
    rows.write(options.output)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def resident(field: str) -> int:
    """Return a field of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
