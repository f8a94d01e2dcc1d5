"""Turn an ordinary network into a spiking one: fill its activation slots, layer by layer, and report on the result."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from snnrl.conversion.calibration import Calibration
from snnrl.conversion.fuse import fold_batch_norm
from snnrl.conversion.graph import trace
from snnrl.conversion.observations import check_finite, cloned
from snnrl.conversion.report import ConversionReport, LayerReport, agreement
from snnrl.errors import UserError, did_you_mean
from snnrl.files import first_line
from snnrl.networks.spiking import SpikingNetwork, neurons_of, spike_counts
from snnrl.neurons import NEURONS

PERCENTILE = 90.0
"""Of the pre-activation, for the thresholds (arXiv 2110.05929, Sec. 3)."""


class Conversion(NamedTuple):
    """A spiking copy of a network and what is known of it."""

    network: SpikingNetwork
    report: ConversionReport


@torch.no_grad()
def convert(
    module: nn.Module,
    observations: Any,
    *,
    steps: int = 5,
    percentile: float = PERCENTILE,
    neuron: str = "lif",
    thresholds_of: nn.Module | None = None,
) -> Conversion:
    """Return a spiking copy of any torch Q-network, ``(B, ...)`` to ``(B, K)``; ``module`` itself is left as it was.

    Batch-norm is folded. Then, in the order of the forward, every activation becomes a layer of neurons whose threshold
    is the ``percentile`` of its pre-activation on ``observations`` (a batch ``(B, ...)`` such as the agent meets), the
    earlier layers already spiking. A spike of a layer stands for its threshold: that factor is multiplied into the next
    layer's weights, so spikes are 0 or 1 and biases keep their meaning; the head is divided by ``steps``.
    ``thresholds_of`` is a spiking network whose thresholds and leaks are taken instead, layer by layer. The copy is in
    evaluation mode. Source: arXiv 2110.05929, Sec. 3; the rescaling is ours (docs/deviations.md).

    Raises:
        UserError: an operation between spikes and output is not supported (it is named), nothing can spike, or the
            observations are not finite or do not fit the network.
    """
    if neuron not in NEURONS:
        raise UserError(f"unknown neuron {neuron!r}{did_you_mean(neuron, NEURONS)}")
    if steps < 1 or not 0 < percentile <= 100:
        raise UserError(f"steps must be at least 1 and percentile in (0, 100], not {steps} and {percentile}")
    if neurons_of(module):
        raise UserError("the network spikes already: convert an ordinary one")
    check_finite(observations)
    ordinary = _copied(module).eval()
    expected = _answer(ordinary, observations)
    graph = trace(ordinary)
    fold_batch_norm(graph)
    shapes = _shapes(graph, observations, expected)
    given = {} if thresholds_of is None else neurons_of(thresholds_of)
    conversion = Calibration(graph, cloned(observations), steps, percentile, NEURONS[neuron], shapes, given)
    conversion.run()
    network = SpikingNetwork(graph, steps, sorted(conversion.heads)).eval()
    return Conversion(network, _report(network, observations, expected, conversion))


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:  # torch's old weight norm keeps a computed tensor, which has no copy
        reason = first_line(error).split(". ")[0]
        raise UserError(f"{type(module).__name__} cannot be copied ({reason}): remove its weight norm first") from error


def _answer(ordinary: nn.Module, observations: Any) -> Tensor:
    """Return the ordinary network's Q-values ``(B, K)``."""
    try:
        expected = ordinary(cloned(observations))
    except Exception as error:
        raise UserError(f"{type(ordinary).__name__} cannot read these observations: {first_line(error)}") from error
    if not isinstance(expected, Tensor) or expected.dim() != 2 or not len(expected):
        raise UserError(
            f"{type(ordinary).__name__} must return one tensor of Q-values (B, K) for a batch of observations"
        )
    if not expected.isfinite().all():
        raise UserError(f"{type(ordinary).__name__} answers these observations with values that are not finite")
    return expected


def _shapes(graph: fx.GraphModule, observations: Any, expected: Tensor) -> dict[fx.Node, torch.Size]:
    """Return the shape of every value in the ordinary network, and check that its graph computes what it computes."""
    ordinary = _ShapeRecorder(graph)
    try:
        answer = ordinary.run(cloned(observations))
    except Exception as error:  # whatever was traced wrongly
        raise UserError(f"the network does not run once it is traced: {first_line(error)}") from error
    if not torch.allclose(answer, expected, rtol=0, atol=1e-2 * float(expected.abs().max())):
        raise UserError(
            "the network gives other answers once it is traced and its batch-norm folded: its forward must be the same "
            "at every call, and batch-norm must normalise the features of the layer before it"
        )
    return ordinary.shapes


class _ShapeRecorder(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = value.shape
        return value


def _report(network: SpikingNetwork, observations: Any, expected: Tensor, made: Calibration) -> ConversionReport:
    with spike_counts(network.body) as counts:
        answer = network(cloned(observations))
    layers = []
    for name, layer in neurons_of(network.body).items():
        threshold = float(layer.spike_value)
        layers.append(LayerReport(name, threshold, counts[name].rate, made.steps, name in made.silent))
    return ConversionReport(tuple(layers), tuple(made.inexact), tuple(made.dense), *agreement(expected, answer))
