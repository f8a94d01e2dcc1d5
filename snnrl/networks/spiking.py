"""What can be done to any network that has spiking neurons in its activation slots."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snnrl.errors import UserError
from snnrl.networks.layers import HeldDropout
from snnrl.neurons import NEURONS, ExpandTime, Hoyer, SpikeCount, SpikingNeuron, sum_over_time


class NetworkState(NamedTuple):
    """Potentials M_T ``(B, ...)`` of every spiking layer after a decision, in the network's order.

    Of a recurrent network: the hidden state and the cell of its LSTM, and the potentials U of the neurons behind it.
    """

    potentials: tuple[Tensor, ...]


def neurons_of(network: nn.Module) -> dict[str, SpikingNeuron]:
    """Return the spiking layers by name, in the network's order; ``fc1`` stands for the slot ``fc1.act``."""
    return {
        name.removesuffix(".act"): module
        for name, module in network.named_modules()
        if isinstance(module, SpikingNeuron)
    }


def check_ordinary(network: nn.Module) -> None:
    """Raise UserError if the network spikes as it was made: there is no ordinary one of its kind."""
    if neurons_of(network):
        raise UserError("the network spikes from the start, there is no ordinary one of its kind: give T=1, not None")


def fill_slots(network: nn.Module, neuron: str, steps: int, *, encoder: bool) -> None:
    """Replace every activation ``act`` by neurons of a kind, and dropout by one that holds its mask, in place.

    With ``encoder`` the first neurons see a real-valued input, the same at every step. Neurons that are there already
    stay, and are told of ``steps``.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, SpikingNeuron):
            module.steps = steps
        elif name.endswith(".act"):
            network.set_submodule(
                name, NEURONS[neuron].behind(channels_in_front(network, name), steps, encoder=encoder)
            )
            encoder = False
        elif isinstance(module, nn.Dropout):
            network.set_submodule(name, HeldDropout(module.p, steps))


def channels_in_front(network: nn.Module, slot: str) -> int | None:
    """Return how many maps an activation slot sees; None behind a linear layer, or where there are no convolutions.

    Where its block begins with it, these are the maps that its convolution takes.
    """
    parent, _, name = slot.rpartition(".")
    seen: nn.Conv2d | nn.Linear | None = None
    behind = False
    for child_name, child in network.get_submodule(parent).named_children():
        behind = behind or child_name == name
        for layer in child.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if behind and seen is None:
                    return layer.in_channels if isinstance(layer, nn.Conv2d) else None
                if not behind:
                    seen = layer
    return seen.out_channels if isinstance(seen, nn.Conv2d) else None


@contextmanager
def calibrating(network: nn.Module, percentile: float, *, lower_only: bool = False) -> Iterator[None]:
    """Set every threshold from the forward inside the block, the earlier layers already spiking.

    With ``lower_only`` thresholds only fall, so that no layer dies when a network goes on at fewer timesteps. In
    training mode batch-norm takes the statistics of that forward.
    """
    neurons = neurons_of(network).values()
    norms = {module: module.momentum for module in network.modules() if isinstance(module, _BatchNorm)}
    for neuron in neurons:
        neuron.percentile, neuron.lower_only = percentile, lower_only
    for norm in norms:
        norm.momentum = 1.0
    try:
        yield
    finally:
        for neuron in neurons:
            neuron.percentile, neuron.lower_only = None, False
        for norm, momentum in norms.items():
            norm.momentum = momentum


@torch.no_grad()
def change_steps(network: nn.Module, heads: Iterable[nn.Module], before: int, after: int) -> None:
    """Let ``network`` decide in ``after`` timesteps instead of ``before``, in place.

    Its ``heads``, the weighted layers that feed the readout, are scaled by before / after: the readout sums over T, and
    Q-values should keep their scale (docs/deviations.md).

    Raises:
        UserError: the network decides in one timestep alone.
    """
    for module in network.modules():
        if isinstance(module, SpikingNeuron | ExpandTime | HeldDropout):
            module.steps = after
    for head in heads:
        for parameter in head.parameters(recurse=False):
            parameter.mul_(before / after)


def constrain(network: nn.Module) -> None:
    """Put every neuron's parameters back into their range, after an optimiser step."""
    for neuron in neurons_of(network).values():
        neuron.constrain()


@contextmanager
def spike_counts(network: nn.Module) -> Iterator[dict[str, SpikeCount]]:
    """Count spikes per layer during the forwards inside the block, at no extra forward."""
    neurons = neurons_of(network)
    counts = {name: SpikeCount() for name in neurons}
    for name, neuron in neurons.items():
        neuron.count = counts[name]
    try:
        yield counts
    finally:
        for neuron in neurons.values():
            neuron.count = None


@contextmanager
def spike_rates(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect spikes per neuron and decision by layer, 0-dim with their gradient, from the forward inside the block."""
    rates: dict[str, Tensor] = {}

    def collect(name: str, neuron: SpikingNeuron, spikes: Tensor) -> None:
        rates[name] = neuron.steps * spikes.mean(dtype=torch.float32)

    hooks = [
        neuron.register_forward_hook(lambda neuron, _, spikes, name=name: collect(name, neuron, spikes))
        for name, neuron in neurons_of(network).items()
    ]
    try:
        yield rates
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def hoyer_measures(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the Hoyer measure of each layer of that kind and timestep, by row of the batch, with its gradient.

    Raises:
        UserError: the network has no such layer.
    """
    measures: list[Tensor] = []
    neurons = [neuron for neuron in neurons_of(network).values() if isinstance(neuron, Hoyer)]
    if not neurons:
        raise UserError("hoyer_penalty is for hoyer neurons, and the network has none: give neuron hoyer, or 0")
    for neuron in neurons:
        neuron.measures = measures
    try:
        yield measures
    finally:
        for neuron in neurons:
            neuron.measures = None


@contextmanager
def carried(network: nn.Module, state: NetworkState | None) -> Iterator[list[NetworkState]]:
    """Start the forward inside the block from ``state`` (None: zero) and collect the state it ends in.

    The list holds the new state once the block is left. Nothing stays in the network.
    """
    neurons = list(neurons_of(network).values())
    collected: list[NetworkState] = []
    for index, neuron in enumerate(neurons):
        neuron.keep_potential = True
        neuron.potential = None if state is None else state.potentials[index]
    try:
        yield collected
        collected.append(NetworkState(tuple(n.potential for n in neurons if n.potential is not None)))
    finally:
        for neuron in neurons:
            neuron.keep_potential = False
            neuron.potential = None


def reset_rows(state: NetworkState, start: Tensor) -> NetworkState:
    """Zero the potentials of the rows whose episode starts; ``start`` is bool ``(B,)``."""
    return NetworkState(
        tuple(p.masked_fill(start.view(-1, *[1] * (p.dim() - 1)), 0.0) for p in state.potentials),
    )


class SpikingNetwork(nn.Module):
    """A body whose activation slots spike, read out by summing its output over T: ``(B, ...)`` to ``(B, K)``."""

    def __init__(self, body: nn.Module, steps: int, heads: Iterable[str]) -> None:
        super().__init__()
        self.body = body
        self.steps = steps
        self.heads = tuple(heads)

    def reduce_to(self, steps: int) -> None:
        """Decide in ``steps`` timesteps from now on, with the same weights, thresholds and leaks."""
        change_steps(self.body, [self.body.get_submodule(name) for name in self.heads], self.steps, steps)
        self.steps = steps

    def forward(self, observations: Tensor) -> Tensor:
        """Return the summed potentials of the output neurons ``(B, K)``; every potential starts at zero."""
        return sum_over_time(self.body(observations), self.steps)

    @torch.no_grad()
    def decide(self, observations: Tensor, state: NetworkState | None) -> tuple[Tensor, NetworkState]:
        """Return ``(B, K)`` and the state after it, the hidden potentials starting from ``state`` (``carry=True``)."""
        with carried(self.body, state) as collected:
            output = self(observations)
        return output, collected[0]
