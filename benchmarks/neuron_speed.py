"""Time of the Nature CNN at T = 1 by kind of neuron, against our own ``lif``: a training step, and inference folded.

Networks of windows, which have no such layers, stand beside them at a quarter of their channels.
"""

from collections.abc import Callable

import torch
from nature_cnn import BATCH, Timing, Variant, measure
from rows import Rows, parser
from torch import Tensor, nn

from snnrl.allocation import keep_freed_memory
from snnrl.conversion import convert
from snnrl.networks import folded, mlp, nature_cnn, window_conv, window_lstm
from snnrl.neurons import NEURONS

OBSERVATION = (4, 84, 84)
ACTIONS = 6
LAYOUT = torch.channels_last


def contestant(neuron: str) -> tuple[nn.Module, Tensor]:
    """Return the network with a kind of neuron, and a batch of images ``(B, 4, 84, 84)``."""
    torch.manual_seed(0)
    ann, images = nn.Sequential(nature_cnn(OBSERVATION), mlp(512, (), ACTIONS)), torch.rand(BATCH, *OBSERVATION)
    network = convert(ann, images, steps=1, neuron=neuron).network
    return network.to(memory_format=LAYOUT), images.contiguous(memory_format=LAYOUT)  # type: ignore[call-overload]


def windows() -> dict[str, tuple[nn.Module, Tensor]]:
    """Return networks of windows, and a batch of images ``(B, 4, 84, 84)``."""
    torch.manual_seed(0)
    images = torch.rand(BATCH, *OBSERVATION)
    kinds = {"window-conv": window_conv, "window-lstm": window_lstm}
    made = {
        kind: nn.Sequential(make(OBSERVATION, 512, width=0.25), mlp(512, (), ACTIONS)) for kind, make in kinds.items()
    }
    return {kind: (network, images) for kind, network in made.items()}


def training(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return forward and backward, from gradients of None."""
    network = network.train()

    def step() -> None:
        for parameter in network.parameters():
            parameter.grad = None
        network(images).square().mean().backward()

    return step


def inference(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """Return a forward without gradients."""
    network = network.eval()
    return torch.no_grad()(lambda: network(images))


def timed(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timing]:
    """Time the functions in turns."""
    variants = {Variant(name, torch.float32, LAYOUT, autocast=False): call for name, call in functions.items()}
    return {name: timing for (name, _), timing in measure(variants, rounds, repeat=3).items()}


def compare(rows: Rows, what: str, timings: dict[str, Timing]) -> None:
    """Add a row for each contestant but ``lif``: medians, and next to them the best rounds."""
    lif = timings.pop("lif")
    for name, ours in timings.items():
        best = {"best": round(ours.best, 3), "peer_best": round(lif.best, 3)}
        rows.add(f"{what}, T=1, {name}", ours.median, "ms", "lif", lif.median, **best)


def main() -> None:
    """Measure everything and print the rows."""
    options = parser(__doc__, rounds=25, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows = Rows(options.threads)
    networks = {name: contestant(name) for name in NEURONS}
    timings = timed({name: training(*network) for name, network in {**networks, **windows()}.items()}, options.rounds)
    compare(rows, "training step", timings)
    functions = {name: inference(*network) for name, network in networks.items()}
    functions |= {name: inference(*network) for name, network in windows().items()}
    functions |= {f"{name}, folded": inference(folded(network), images) for name, (network, images) in networks.items()}
    timings = timed(functions, options.rounds)
    compare(rows, "inference", timings)
    rows.write(options.output)


if __name__ == "__main__":
    main()
