"""The contestants: one Nature CNN with a linear head, its activation slots filled by each library's neurons."""

import copy
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from snnrl.conversion import convert
from snnrl.networks import mlp, nature_cnn, neurons_of

OBSERVATION = (4, 84, 84)
ACTIONS = 6

PEERS = ("spikingjelly", "snntorch", "sinabs")
"""The peers' distribution names, which are their import names too."""

REPEATED = tuple(f"{name}, input repeated" for name in PEERS)
"""The same, used as in their tutorials: the input is repeated, so conv1 is computed at every step."""

Neuron = Callable[[Tensor], Tensor]


class Peer(nn.Module):
    """The network of a peer, time folded into the batch; conv1 is computed once, or at every step of a repeated input.

    ``neurons`` map currents with a time axis to spikes of the same shape; the axis is 0, or 1 where the library wants
    it. Two libraries return float32 spikes whatever they are given: these are cast back.
    """

    def __init__(
        self, weights: nn.ModuleList, neurons: list[Neuron], steps: int, *, time_axis: int, repeat_input: bool
    ) -> None:
        super().__init__()
        self.repeat_input = repeat_input
        self.weights = weights
        self.neurons = neurons
        self.steps = steps
        self.time_axis = time_axis

    def forward(self, observations: Tensor) -> Tensor:
        """Return Q-values ``(B, K)``, the output neurons' currents summed over time."""
        batch = observations.shape[0]
        folded = (self.steps, batch) if self.time_axis == 0 else (batch, self.steps)
        if self.repeat_input:
            repeated = observations.unsqueeze(self.time_axis).expand(*folded, *observations.shape[1:])
            current = self.weights[0](repeated.flatten(0, 1)).unflatten(0, folded)
        else:
            current = self.weights[0](observations).unsqueeze(self.time_axis)
            current = current.expand(*folded, *current.shape[2:])
        for neuron, weights in zip(self.neurons, self.weights[1:], strict=True):
            spikes = neuron(current).flatten(0, 1).to(current.dtype)
            if isinstance(weights, nn.Linear):
                spikes = spikes.flatten(1)
            current = weights(spikes).unflatten(0, folded)
        return current.sum(self.time_axis)


def ordinary() -> nn.Sequential:
    """Return the ordinary ReLU network, images ``(B, 4, 84, 84)`` to Q-values ``(B, 6)``."""
    return nn.Sequential(nature_cnn(OBSERVATION), mlp(512, (), ACTIONS))


def build(name: str, steps: int, ann: nn.Sequential, observations: Tensor) -> nn.Module:
    """Return the contestant ``name``: ``relu``, ``snnrl`` or a peer, all spiking ones converted alike."""
    if name == "relu":
        return copy.deepcopy(ann)
    network = convert(ann, observations, steps=steps).network
    if name == "snnrl":
        return network
    weights = nn.ModuleList(m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    thresholds = [neuron.spike_value for neuron in neurons_of(network.body).values()]
    library = name.split(",")[0]
    make = {"spikingjelly": _spikingjelly, "snntorch": _snntorch, "sinabs": _sinabs}[library]
    neurons = [make(threshold) for threshold in thresholds]
    return Peer(weights, neurons, steps, time_axis=1 if library == "sinabs" else 0, repeat_input=name in REPEATED)


def label(name: str) -> str:
    """Return the contestant's name with its version."""
    if name == "relu":
        return "ReLU network"
    library, _, way = name.partition(", ")
    return f"{library} {version(library)}" + (f", {way}" if way else "")


def _spikingjelly(threshold: float) -> Neuron:
    from spikingjelly.activation_based import functional, neuron

    node = neuron.IFNode(v_threshold=threshold, v_reset=None, detach_reset=True, step_mode="m")

    def run(current: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(current)

    return run


def _snntorch(threshold: float) -> Neuron:
    import snntorch

    node = snntorch.Leaky(beta=1.0, threshold=threshold, reset_mechanism="subtract")

    def run(current: Tensor) -> Tensor:
        membrane = torch.zeros_like(current[0])
        spikes = []
        for now in current:
            spike, membrane = node(now, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return run


def _sinabs(threshold: float) -> Neuron:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sinabs import layers
        from sinabs.activation import SingleSpike

    node = layers.IAF(spike_threshold=torch.tensor(threshold), spike_fn=SingleSpike)

    def run(current: Tensor) -> Tensor:
        node.reset_states()
        return node(current)

    return run
