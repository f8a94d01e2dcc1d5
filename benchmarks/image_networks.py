"""Time and memory of a training step of VGG6 and VGG16: snnrl against two spiking libraries and the ReLU network."""

import copy
import gc
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from nature_cnn import resident
from rows import Rows, parser
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snnrl.allocation import keep_freed_memory
from snnrl.networks import SpikingNetwork, calibrating, classifier, fill_slots, neurons_of
from snnrl.neurons.compiled import compiled_scans
from snnrl.precision import multiplies_in_bf16

NETWORKS = ("vgg6", "vgg16")
IMAGE = (3, 32, 32)
CLASSES = 10
BATCH = 64
STEPS = 5
LEAK = 0.9
DROPOUT = 0.2
PEERS = ("spikingjelly", "snntorch")
OURS = {"snnrl": "training step", "compiled": "training step, neurons compiled"}
"""Ours, and what is measured of it."""

Contestant = tuple[str, int, bool]
"""``ordinary``, ``products``, a peer, or one of ours; its timesteps; and whether its products are in bfloat16."""

PRECISIONS = (False, True) if multiplies_in_bf16(torch.device("cpu")) else (False,)

CONTESTANTS: dict[int, tuple[Contestant, ...]] = {
    1: tuple((name, 1, mixed) for name in ("ordinary", "snnrl") for mixed in PRECISIONS),
    STEPS: (
        *((name, STEPS, mixed) for name in OURS for mixed in PRECISIONS),
        *((other, STEPS, False) for other in ("products", *PEERS)),
    ),
}
"""What is compared at one timestep, and at several."""


class Variant(NamedTuple):
    """One way to run a contestant."""

    name: str
    steps: int
    mixed: bool
    memory_format: torch.memory_format

    @property
    def contestant(self) -> Contestant:
        """What is compared, in whatever memory format it is fastest."""
        return self[:3]

    def describe(self) -> str:
        """Return the memory format."""
        return "channels_last" if self.memory_format is torch.channels_last else "contiguous"


def variants(name: str, steps: int, mixed: bool) -> Iterable[Variant]:
    """Return a contestant in both memory formats."""
    return (Variant(name, steps, mixed, layout) for layout in (torch.contiguous_format, torch.channels_last))


class Products(nn.Module):
    """The weighted layers and the pooling of T timesteps alone: what a step costs with neurons that take no time."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.steps = steps
        first, *later = (layer for layer in leaves(network) if not isinstance(layer, nn.ReLU | nn.Dropout))
        self.first, self.later = first, nn.Sequential(*later)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, summed over time."""
        current = torch.cat([self.first(images)] * self.steps)
        return self.later(current).view(self.steps, -1, CLASSES).sum(0)


class SpikingJelly(nn.Module):
    """The network in SpikingJelly's multi-step mode; the first layer, whose input never changes, is computed once."""

    def __init__(self, network: nn.Module, thresholds: dict[str, float], steps: int) -> None:
        from spikingjelly.activation_based import functional, layer, neuron

        super().__init__()
        self.steps, self.reset = steps, functional.reset_net
        remaining = iter(thresholds.values())

        def translated(module: nn.Module) -> nn.Module:
            if isinstance(module, nn.ReLU):
                return neuron.LIFNode(
                    tau=1 / (1 - LEAK),
                    decay_input=False,
                    v_threshold=next(remaining),
                    v_reset=None,
                    detach_reset=True,
                    step_mode="m",
                )
            if isinstance(module, nn.Dropout):
                return layer.Dropout(module.p, step_mode="m")
            return layer.SeqToANNContainer(module)

        first, *later = leaves(network)
        self.first, self.later = first, nn.Sequential(*map(translated, later))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, summed over time."""
        self.reset(self.later)
        current = self.first(images)
        return self.later(current.expand(self.steps, *current.shape)).sum(0)


class SnnTorch(nn.Module):
    """The network as snnTorch's tutorials run it: a loop over the steps around a chain with hidden states."""

    def __init__(self, network: nn.Module, thresholds: dict[str, float], steps: int) -> None:
        import snntorch

        super().__init__()
        remaining = iter(thresholds.values())
        self.steps = steps
        self.chain = nn.Sequential(
            *(
                snntorch.Leaky(beta=LEAK, threshold=next(remaining), init_hidden=True)
                if isinstance(module, nn.ReLU)
                else module
                for module in leaves(network)
            )
        )
        self.neurons = [module for module in self.chain if isinstance(module, snntorch.Leaky)]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, summed over time."""
        for neuron in self.neurons:
            neuron.reset_mem()
        return torch.stack([self.chain(images) for _ in range(self.steps)]).sum(0)


def leaves(network: nn.Module) -> list[nn.Module]:
    """Return the layers of a chain in order."""
    return [module for module in network.modules() if not isinstance(module, nn.Sequential)]


def build(kind: str, variant: Variant, images: Tensor) -> nn.Module:
    """Return the contestant in training mode, the thresholds of all spiking ones set alike."""
    ordinary = classifier(kind, IMAGE, CLASSES, batch_norm=False, dropout=DROPOUT)
    if variant.name == "ordinary":
        return ordinary
    if variant.name == "products":
        return Products(ordinary, variant.steps)
    body = copy.deepcopy(ordinary)
    fill_slots(body, "lif", variant.steps, encoder=True)
    network = SpikingNetwork(body, variant.steps, ["decision.head"])
    for neuron in neurons_of(body).values():
        nn.init.constant_(neuron.get_parameter("leak"), LEAK)
    with torch.no_grad(), calibrating(network, 90):
        network.eval()(images[:8])
    if variant.name in OURS:
        return network.train()
    thresholds = {name: neuron.spike_value for name, neuron in neurons_of(body).items()}
    return {"spikingjelly": SpikingJelly, "snntorch": SnnTorch}[variant.name](ordinary, thresholds, variant.steps)


def prepare(kind: str, variant: Variant) -> Callable[[int], None]:
    """Return a function that runs forward and backward on so many images, from gradients of None."""
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, *IMAGE), torch.randint(CLASSES, (BATCH,))
    network = build(kind, variant, images).to(memory_format=variant.memory_format)
    images = images.contiguous(memory_format=variant.memory_format)

    def step(batch: int) -> None:
        for parameter in network.parameters():
            parameter.grad = None
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=variant.mixed)
        with mixed, compiled_scans(variant.name == "compiled"):
            logits = network(images[:batch])
        cross_entropy(logits.float(), labels[:batch]).backward()

    return step


class Timing(NamedTuple):
    """Milliseconds of a step: the clock's, and the processor's, which other programs disturb less."""

    clock: float
    processor: float


def timed(step: Callable[[int], None], batch: int = BATCH) -> Timing:
    """Run one step."""
    clock, processor = time.perf_counter(), time.process_time()
    step(batch)
    return Timing((time.perf_counter() - clock) * 1e3, (time.process_time() - processor) * 1e3)


def measure(kind: str, contestants: Iterable[Contestant], rounds: int) -> dict[Contestant, tuple[list[Timing], str]]:
    """Time contestants in turns, whose order alternates, each in the memory format in which it is faster."""
    steps: dict[Variant, Callable[[int], None]] = {}
    for contestant in contestants:
        formats = {variant: prepare(kind, variant) for variant in variants(*contestant)}
        tried = {variant: [timed(step, BATCH // 2).processor for _ in range(4)] for variant, step in formats.items()}
        fastest = min(tried, key=lambda variant: min(tried[variant]))
        steps[fastest] = formats[fastest]
    times: dict[Variant, list[Timing]] = {variant: [] for variant in steps}
    for number in range(rounds + 1):
        for variant in list(steps)[:: 1 if number % 2 else -1]:
            timing = timed(steps[variant])
            if number:
                times[variant].append(timing)
    return {variant.contestant: (found, variant.describe()) for variant, found in times.items()}


def training_steps(rows: Rows, kind: str, T: int, rounds: int) -> None:
    """Measure forward and backward of one network."""
    found = measure(kind, CONTESTANTS[T], rounds)
    pairs: list[tuple[Contestant, Contestant]]
    if T == 1:
        pairs = [(("snnrl", 1, mixed), ("ordinary", 1, mixed)) for mixed in PRECISIONS]
    else:
        pairs = [(one, (peer, T, False)) for one in found if one[0] not in PEERS for peer in PEERS]
    for one, other in pairs:
        what = OURS.get(one[0], "products and pooling of a training step")
        name = f"{kind}, {what}, T={T}, {precision(one)} against {precision(other)}"
        (times, how), (peer_times, peer_how) = found[one], found[other]
        clock, peer_clock = (statistics.median(timing.clock for timing in part) for part in (times, peer_times))
        # of the same round: the machine's speed drifts
        ratio = statistics.median(a.processor / b.processor for a, b in zip(times, peer_times, strict=True))
        processor, peer_processor = ([round(timing.processor) for timing in part] for part in (times, peer_times))
        more = {"processor_ratio": round(ratio, 3), "processor": processor, "peer_processor": peer_processor}
        rows.add(name, clock, "ms", label(other[0]), peer_clock, **more, how=how, peer_how=peer_how)


def precision(contestant: Contestant) -> str:
    """Return the number type of the products."""
    return "bf16" if contestant[2] else "fp32"


def label(name: str) -> str:
    """Return a peer with its version, or the ordinary network."""
    return "ReLU network" if name == "ordinary" else f"{name} {version(name)}"


def peak_memory(kind: str, variant: Variant, threads: int) -> float:
    """Return the MiB by which one training step raises the resident set; to be run in a process of its own."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    step = prepare(kind, variant)
    step(1)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    step(BATCH)
    return (resident("VmHWM") - before) / 1024


def memory(rows: Rows, kind: str, threads: int, processes: int) -> None:
    """Measure peak memory of a step in fresh processes: the median of each memory format, then the least."""
    context = multiprocessing.get_context("spawn")
    least: dict[str, tuple[float, str]] = {}
    for name in (*OURS, *PEERS):
        for variant in variants(name, STEPS, mixed=False):
            peaks = []
            for _ in range(processes):
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    peaks.append(pool.submit(peak_memory, kind, variant, threads).result())
            found = (statistics.median(peaks), variant.describe())
            least[name] = min(least.get(name, found), found)
    for (ours, what), peer in product(OURS.items(), PEERS):
        (value, how), (peer_value, peer_how) = least[ours], least[peer]
        name = f"{kind}, peak memory of a {what}, T={STEPS}, fp32"
        rows.add(name, value, "MiB", label(peer), peer_value, how=how, peer_how=peer_how)


def main() -> None:
    """Measure both networks and print the rows."""
    options = parser(__doc__, rounds=5, threads=2)
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    options.add_argument("--processes", type=int, default=3, help="fresh processes for each peak of memory")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()
    rows = Rows(chosen.threads)
    for kind in chosen.networks:
        for T in CONTESTANTS:
            training_steps(rows, kind, T, chosen.rounds)
        memory(rows, kind, chosen.threads, chosen.processes)
    rows.write(chosen.output)


if __name__ == "__main__":
    main()
