"""Turn an ordinary network into a spiking one: fill its activation slots, layer by layer, and report on the result."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from snnrl.conversion.fuse import fold_batch_norm
from snnrl.conversion.graph import (
    INEXACT_ACTIVATIONS,
    SHAPES,
    SUMS,
    TRANSPARENT,
    WEIGHTED,
    describe,
    is_activation,
    operation,
    replace_input,
    slot_name,
    timed_nodes,
    trace,
)
from snnrl.conversion.report import ConversionReport, LayerReport, agreement
from snnrl.errors import UserError, did_you_mean
from snnrl.networks.spiking import SpikingNetwork, neurons_of, spike_counts
from snnrl.neurons import NEURONS, ExpandTime

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
) -> Conversion:
    """Return a spiking copy of any torch Q-network, ``(B, ...)`` to ``(B, K)``; ``module`` itself is left as it was.

    Batch-norm is folded. Then, in the order of the forward, every activation becomes a layer of neurons whose threshold
    is the ``percentile`` of its pre-activation on ``observations`` (a batch ``(B, ...)`` such as the agent meets), the
    earlier layers already spiking. A spike of a layer stands for its threshold: that factor is multiplied into the next
    layer's weights, so spikes are 0 or 1 and biases keep their meaning; the head is divided by ``steps``.
    Source: arXiv 2110.05929, Sec. 3; the rescaling is ours (docs/deviations.md).

    Raises:
        UserError: an operation between spikes and output is not supported (it is named), or nothing can spike.
    """
    if neuron not in NEURONS:
        raise UserError(f"unknown neuron {neuron!r}{did_you_mean(neuron, NEURONS)}")
    if steps < 1 or not 0 < percentile <= 100:
        raise UserError(f"steps must be at least 1 and percentile in (0, 100], not {steps} and {percentile}")
    graph = trace(copy.deepcopy(module).eval())
    fold_batch_norm(graph)
    conversion = _Calibration(graph, observations, steps, percentile, neuron)
    conversion.run()
    network = SpikingNetwork(graph, steps, sorted(conversion.heads))
    return Conversion(network, _report(module, network, observations, conversion))


class _Calibration:
    """One walk through the graph: run each node on the observations, filling slots and moving scales as they come.

    ``scale[node]`` times the node's value is the value in the ordinary network's units: a number, or ``(features,)``.
    """

    def __init__(self, graph: fx.GraphModule, observations: Any, steps: int, percentile: float, neuron: str) -> None:
        self.graph = graph
        self.steps = steps
        self.percentile = percentile
        self.neuron = NEURONS[neuron]
        self.timed = timed_nodes(graph)
        self.scale: dict[fx.Node, float | Tensor] = {}
        self.called: dict[str, int] = {}
        self.heads: set[str] = set()
        self.inexact: list[str] = []
        self.silent: set[str] = set()
        self.interpreter = fx.Interpreter(graph)
        self.interpreter.args_iter = iter([observations])

    def run(self) -> None:
        """Convert the graph in place."""
        nodes = list(self.graph.graph.nodes)
        for node in nodes:
            if node.op == "call_module":
                self.called[node.target] = self.called.get(node.target, 0) + 1
        if not any(is_activation(self.graph, node) for node in nodes):
            raise UserError("nothing to convert: the network has no activation that could spike (it is linear)")
        for node in nodes:
            if is_activation(self.graph, node):
                self.fill_slot(node)
            elif node.op == "output":
                self.divide_head(node)
                return
            elif node in self.timed:
                self.pass_on(node)
            self.evaluate(node)

    def evaluate(self, node: fx.Node) -> Any:
        """Run one node on the values of its inputs and keep the result."""
        self.interpreter.env[node] = self.interpreter.run_node(node)
        return self.interpreter.env[node]

    def fill_slot(self, node: fx.Node) -> None:
        """Replace an activation by neurons, with a threshold from the current that it receives."""
        source = node.all_input_nodes[0]
        if operation(self.graph, node) in INEXACT_ACTIVATIONS:
            self.inexact.append(describe(self.graph, node))
        self.unscale(node, source)
        source = node.all_input_nodes[0]
        layer = self.neuron(self.steps, encoder=source not in self.timed)
        name = slot_name(self.graph, node, set(neurons_of(self.graph)) | {f"{n}.act" for n in neurons_of(self.graph)})
        if not layer.calibrate(self.interpreter.env[source], self.percentile):
            self.silent.add(name.removesuffix(".act"))
        self.graph.add_submodule(name, layer.to(self.interpreter.env[source].device))
        node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}
        self.scale[node] = float(layer.spike_value)

    def pass_on(self, node: fx.Node) -> None:
        """Carry the inputs' scale to the output, or into the weights."""
        what = operation(self.graph, node)
        sources = [source for source in node.all_input_nodes if source in self.timed]
        if what in SHAPES:
            self.scale[node] = self.scale[sources[0]]
        elif isinstance(what, type) and issubclass(what, WEIGHTED):
            self.scale_weights(node, sources[0])
        elif what in TRANSPARENT:
            if isinstance(self.scale[sources[0]], Tensor):
                self.unscale(node, sources[0])
            self.scale[node] = self.scale[node.all_input_nodes[0]]
        elif what in SUMS:
            self.meet(node, what)
        else:
            raise UserError(
                f"{describe(self.graph, node)} is not supported between spikes and output; supported are linear and "
                "convolutional layers, average pooling, flatten, concatenation, sums, ReLU and activations to distil"
            )

    def scale_weights(self, node: fx.Node, source: fx.Node) -> None:
        """Multiply the input's scale into the weights of a layer that is used once."""
        if self.called[str(node.target)] > 1:
            self.unscale(node, source)
        else:
            layer = self.graph.get_submodule(str(node.target))
            assert isinstance(layer.weight, Tensor)
            layer.weight.mul_(self.scale[source])
        self.scale[node] = 1.0

    def meet(self, node: fx.Node, what: Any) -> None:
        """Let several inputs meet: at every step, and at one scale, or feature by feature when joining vectors."""
        for source in node.all_input_nodes:
            if source not in self.timed:
                name = f"{source.name}_at_every_step"
                self.graph.add_submodule(name, ExpandTime(self.steps))
                with self.graph.graph.inserting_before(node):
                    repeated = self.graph.graph.call_module(name, (source,))
                replace_input(node, source, repeated)
                self.timed.add(repeated)
                self.scale[repeated] = 1.0
                self.evaluate(repeated)
        sources = node.all_input_nodes
        scales = [self.scale[source] for source in sources]
        values = [self.interpreter.env[source] for source in sources]
        if len(sources) == 1 or all(isinstance(s, float) and s == scales[0] for s in scales):
            self.scale[node] = scales[0]
        elif what is torch.cat and all(value.dim() == 2 for value in values):
            parts = [value.new_ones(value.shape[1]) * s for s, value in zip(scales, values, strict=True)]
            self.scale[node] = torch.cat(parts)
        else:
            for source in sources:
                self.unscale(node, source)
            self.scale[node] = 1.0

    def unscale(self, node: fx.Node, source: fx.Node) -> None:
        """Put a multiplication in front of ``node`` so that it reads ``source`` in the ordinary network's units."""
        scale = self.scale.get(source, 1.0)
        if isinstance(scale, float) and scale == 1.0:
            return
        factor = scale.tolist() if isinstance(scale, Tensor) else scale
        if isinstance(factor, list):
            raise UserError(f"{describe(self.graph, node)} reads spikes of several layers at once: not supported there")
        with self.graph.graph.inserting_before(node):
            product = self.graph.graph.call_function(torch.mul, (source, factor))
        replace_input(node, source, product)
        self.timed.add(product)
        self.scale[product] = 1.0
        self.evaluate(product)

    def divide_head(self, output: fx.Node) -> None:
        """Divide the layers that feed the output by T, as the readout sums over T."""
        if len(output.all_input_nodes) != 1:
            raise UserError("the network must return one tensor of Q-values (B, K)")
        (answer,) = output.all_input_nodes
        if answer not in self.timed:
            raise UserError("the network's output does not depend on any activation that could spike")
        if not self.find_heads(answer):
            raise UserError("the network's output must come from linear layers of its own: give it a linear head")
        for name in self.heads:
            for parameter in self.graph.get_submodule(name).parameters(recurse=False):
                parameter.div_(self.steps)
        self.graph.graph.lint()
        self.graph.recompile()

    def find_heads(self, node: fx.Node) -> bool:
        """Collect the weighted layers that reach the output through linear operations; False if others do as well."""
        if node.op == "call_module" and isinstance(self.graph.get_submodule(str(node.target)), WEIGHTED):
            self.heads.add(str(node.target))
            return self.called[str(node.target)] == 1
        what = operation(self.graph, node)
        if what not in SUMS and what not in TRANSPARENT:
            return False
        return all([self.find_heads(source) for source in node.all_input_nodes])


def _report(ann: nn.Module, network: SpikingNetwork, observations: Any, made: _Calibration) -> ConversionReport:
    training = ann.training
    expected = ann.eval()(observations)
    ann.train(training)
    with spike_counts(network.body) as counts:
        answer = network(observations)
    layers = []
    for name, layer in neurons_of(network.body).items():
        threshold = float(layer.spike_value)
        layers.append(LayerReport(name, threshold, counts[name].rate, made.steps, name in made.silent))
    return ConversionReport(tuple(layers), tuple(made.inexact), *agreement(expected, answer))
