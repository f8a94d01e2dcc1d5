"""Count the operations of a network's layers and neurons on observations that it meets, exactly.

A product is counted where its input takes part in it, padding and stride included: the gradient of the sum of a layer's
outputs, its weights all one, is the number of products that each input enters (its fan-out). Weights that are zero, as
pruning leaves them, count as absent.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from snnrl.neurons import SpikingNeuron
from snnrl.neurons.functional import sum_rows


@dataclass(frozen=True)
class LayerOperations:
    """One weighted layer with the neurons behind it; counts are totals over ``decisions`` unless said otherwise."""

    name: str
    decisions: int
    """Observations."""
    passes: int
    """How often the weights are applied in one decision: 1 or T."""
    macs: int
    """Products of one pass, a convolution's padding included: the usual count."""
    spiking: bool
    """Whether all inputs are spikes, or their average: products are then additions of a weight."""
    events: int
    """Inputs that are not zero, or spikes."""
    active: int
    """Products of the events: their real fan-out, without padding."""
    inputs: int
    """Of one pass."""
    outputs: int
    """Of one pass."""
    parameters: int
    """Weights and biases."""
    biases: int = 0
    """Additions of a bias in one pass."""
    rectified: int = 0
    """Outputs that a ReLU compares with zero."""
    neurons: int = 0
    """Spiking neurons behind the weights."""
    steps: int = 0
    """Of these neurons in one decision."""
    leaks: bool = False
    """Whether their potential is multiplied by a leak at every step after the first."""
    spikes: int = 0
    """Sent by them."""
    resets: int = 0
    """Of these, the spikes before the last step: a later step sees the potential that they leave."""
    handed: int = 0
    """Neurons that begin with what is left of the potentials of others, times a leak, in the same step."""
    zero_weights: int = 0
    """Of the parameters: they take no part."""
    zero_macs: int = 0
    """Products of one pass with these weights."""
    grey: float = 1.0
    """Inputs of the ordinary network's layer for each one of this, where that sees frames and this one planes; 0 where
    the ordinary network has no such layer."""

    @property
    def input_rate(self) -> float | None:
        """Spikes per input and decision, summed over T; None where the input is real-valued."""
        return self.events / (self.decisions * self.inputs) if self.spiking else None

    @property
    def rate(self) -> float | None:
        """Spikes per neuron and decision, summed over T; None without spiking neurons."""
        return self.spikes / (self.decisions * self.neurons) if self.neurons else None

    @property
    def ordinary(self) -> "LayerOperations":
        """The layer in the ordinary network: real values, one pass, a ReLU in place of the neurons."""
        if not self.grey:
            return LayerOperations(self.name, self.decisions, 0, 0, False, 0, 0, 0, 0, 0)
        return replace(
            self,
            passes=1,
            macs=round(self.macs * self.grey),
            inputs=round(self.inputs * self.grey),
            parameters=round(self.parameters * self.grey),
            spiking=False,
            rectified=self.rectified or self.neurons,
            neurons=0,
            steps=0,
            spikes=0,
            resets=0,
            handed=0,
            zero_weights=0,
            zero_macs=0,
            grey=1.0,
        )


Counter = Callable[["Count", str, Any, Tensor, Tensor], None]
_COUNTERS: dict[type[nn.Module], Counter] = {}


def counts(*kinds: type[nn.Module]) -> Callable[[Counter], Counter]:
    """Register a function as the counter of these kinds of layers: it is called after each of their forwards.

    Its arguments are the count so far, the layer's name, the layer, its input and its output.
    """

    def register(counter: Counter) -> Counter:
        _COUNTERS.update(dict.fromkeys(kinds, counter))
        return counter

    return register


class Count:
    """What has been counted, in the order of the forward."""

    def __init__(self, decisions: int) -> None:
        self.decisions = decisions
        self.layers: list[LayerOperations] = []
        self.pooled: int | Tensor = 1
        """Spikes that were averaged into one value since the last neurons, or into each value of a row."""
        self.grey = 1.0
        """Frames for each plane that the next layer sees, if it sees planes of frames."""


@torch.no_grad()
def count_operations(network: nn.Module, observations: Any, batch: int) -> tuple[LayerOperations, ...]:
    """Run ``network`` on a batch of ``batch`` observations and count per layer, in the order of the forward."""
    with counting_operations(network, batch) as found:
        network(observations)
    return tuple(found.layers)


@contextmanager
def counting_operations(network: nn.Module, batch: int) -> Iterator[Count]:
    """Count the operations of the one forward inside the block, of ``batch`` observations.

    A layer's input counts as spikes if every value is 0, 1 or -1, or, behind spiking neurons, a sum or an
    average-pooled average of spikes: each of them then adds a weight, or subtracts it.
    """
    found = Count(batch)

    def hook(name: str, counter: Counter) -> Any:
        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
                counter(found, name, layer, inputs[0], output)

        return count

    handles = [
        module.register_forward_hook(hook(name.removesuffix(".weights"), counter))
        for name, module in network.named_modules()
        if (counter := _counter_of(type(module))) is not None
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _counter_of(kind: type[nn.Module]) -> Counter | None:
    return next((_COUNTERS[base] for base in kind.__mro__ if base in _COUNTERS), None)


@counts(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
def count_weights(count: Count, name: str, layer: Any, values: Tensor, output: Tensor) -> None:
    """Products of every input that is not zero."""
    spiking, events = count_events(count, values)
    passes = len(values) // count.decisions
    bias = 0 if layer.bias is None else layer.bias.numel()
    macs = output[0].numel() * layer.weight[0].numel()
    zeros = int((layer.weight == 0).sum())
    count.layers.append(
        LayerOperations(
            name,
            count.decisions,
            passes,
            macs=macs,
            spiking=spiking,
            events=int(events.sum()),
            active=int((events * fan_out(layer, values[:1])).sum()),
            inputs=values[0].numel(),
            outputs=output[0].numel(),
            parameters=layer.weight.numel() + bias,
            biases=output[0].numel() if bias else 0,
            zero_weights=zeros,
            zero_macs=macs * zeros // layer.weight.numel(),
            grey=count.grey,
        )
    )
    count.grey = 1.0


def count_events(count: Count, values: Tensor) -> tuple[bool, Tensor]:
    """Say whether a layer's input ``(rows, ...)`` is spikes, and return how many there are in each element of a row.

    Of a network's own input, spikes may have a sign: they add or subtract a weight. Real values count as one event
    unless they are zero.
    """
    averaged = isinstance(count.pooled, Tensor) or count.pooled > 1
    rows = values.double() * count.pooled if averaged else values
    behind_neurons = any(before.neurons for before in count.layers)
    spikes = bool(rows.amin() >= 0) if behind_neurons else bool(rows.abs().amax() <= 1)
    whole = spikes and all(torch.equal(part, part.round()) for part in (rows[:1], rows))  # the first row often tells
    return whole, sum_rows(rows.abs() if whole else (rows != 0).float()).double()


def fan_out(layer: Any, row: Tensor) -> Tensor:
    """Return for each input of one row ``(1, ...)`` how many products it enters, shape as the row without its first.

    Products with weights that are zero are left out.
    """
    bare = copy.copy(layer)
    bare._forward_hooks = OrderedDict()  # one of them is counting
    parameters = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in layer.named_parameters()}
    parameters["weight"] += layer.weight != 0
    with torch.enable_grad():
        inputs = torch.zeros_like(row, dtype=torch.float64, requires_grad=True)
        (reached,) = torch.autograd.grad(functional_call(bare, parameters, (inputs,)).sum(), inputs)
    return reached[0]


@counts(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
def count_pooling(count: Count, name: str, layer: nn.Module, values: Tensor, output: Tensor) -> None:
    """Leave the additions to the next layer, where each spike of a window adds a share of a weight."""
    kernel = getattr(layer, "kernel_size", None)
    if kernel is None:
        count.pooled *= values[0].numel() // output[0].numel()
    else:
        sizes = kernel if isinstance(kernel, tuple) else (kernel,) * (values.dim() - 2)
        count.pooled *= math.prod(sizes)


@counts(nn.ReLU)
def count_rectifiers(count: Count, name: str, layer: nn.Module, values: Tensor, output: Tensor) -> None:
    """Give the comparisons to the weighted layer before them."""
    if count.layers:
        count.layers[-1] = replace(count.layers[-1], rectified=output[0].numel())


@counts(SpikingNeuron)
def count_neurons(count: Count, name: str, layer: SpikingNeuron, values: Tensor, output: Tensor) -> None:
    """Give the neurons to the weighted layer before them."""
    count.pooled = 1
    if not count.layers:
        return
    spikes = int(sum_rows(output).double().sum())
    last = int(sum_rows(output[-(len(output) // layer.steps) :]).double().sum())
    count.layers[-1] = replace(
        count.layers[-1],
        neurons=output[0].numel(),
        steps=layer.steps,
        leaks=layer.leaks,
        spikes=spikes,
        resets=spikes - last,
    )
