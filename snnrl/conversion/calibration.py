"""Fill the activation slots of a traced network, layer by layer, on a batch of observations."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnrl.conversion.graph import (
    ADDITIONS,
    INEXACT_ACTIVATIONS,
    RESHAPES,
    SCALABLE,
    SUMS,
    TRANSPARENT,
    WEIGHTED,
    describe,
    has_own_weight,
    is_activation,
    is_other_activation,
    operation,
    parameter_uses,
    replace_input,
    slot_name,
    timed_nodes,
)
from snnrl.errors import UserError
from snnrl.files import first_line
from snnrl.networks.layers import HeldDropout
from snnrl.neurons import ExpandTime, SpikingNeuron


class Calibration:
    """One walk through the graph: run each node on the observations, filling slots and moving scales as they come.

    ``scale[node]`` times the node's value is the value in the ordinary network's units: a number, or ``(features,)``.
    A timed node has T times as many rows as in the ordinary network, where its shape is ``shapes[node]``.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        observations: Any,
        steps: int,
        percentile: float,
        neuron: type[SpikingNeuron],
        shapes: dict[fx.Node, torch.Size],
        given: Mapping[str, SpikingNeuron],
    ) -> None:
        self.graph = graph
        self.steps = steps
        self.percentile = percentile
        self.neuron = neuron
        self.shapes = shapes
        self.given = given
        self.timed = timed_nodes(graph)
        self.uses = parameter_uses(graph)
        self.scale: dict[fx.Node, float | Tensor] = {}
        self.repeated: dict[fx.Node, fx.Node] = {}
        self.heads: set[str] = set()
        self.inexact: list[str] = []
        self.dense: list[str] = []
        self.silent: set[str] = set()
        self.interpreter = fx.Interpreter(graph)
        self.interpreter.args_iter = iter([observations])

    def run(self) -> None:
        """Convert the graph in place."""
        nodes = list(self.graph.graph.nodes)
        # known before the first slot is filled: one module may be called in several slots
        activations = {node: operation(self.graph, node) for node in nodes if is_activation(self.graph, node)}
        self.dense = [describe(self.graph, n) for n in nodes if n not in self.timed and self.is_dense_activation(n)]
        if not activations:
            found = f"{', '.join(self.dense)} cannot" if self.dense else "it is linear"
            raise UserError(f"nothing to convert: the network has no activation that could spike ({found})")
        self.inexact += [describe(self.graph, n) for n, what in activations.items() if what in INEXACT_ACTIVATIONS]
        last_reader = {source: node for node in nodes for source in node.all_input_nodes}
        for node in nodes:
            sources = node.all_input_nodes
            if node.op == "output":
                self.divide_heads(node)
            elif node in activations:
                self.fill_slot(node)
            elif node in self.timed:
                self.pass_on(node)
            if node.op != "output":
                self.evaluate(node)
            for source in sources:
                if last_reader[source] is node:
                    del self.interpreter.env[source]
        self.graph.graph.lint()
        self.graph.delete_all_unused_submodules()
        self.graph.recompile()

    def is_dense_activation(self, node: fx.Node) -> bool:
        """Say whether the node is an activation after a layer that stays as it is, as nothing before it spikes."""
        return is_other_activation(self.graph, node) and any(map(self.follows_weights, node.all_input_nodes))

    def follows_weights(self, node: fx.Node) -> bool:
        """Say whether a value was computed by a weighted layer."""
        what = operation(self.graph, node)
        return (isinstance(what, type) and issubclass(what, WEIGHTED)) or any(
            map(self.follows_weights, node.all_input_nodes)
        )

    def evaluate(self, node: fx.Node) -> None:
        """Run one node on the values of its inputs and keep the result."""
        try:
            value = self.interpreter.run_node(node)
        except Exception as error:
            raise UserError(f"{describe(self.graph, node)} cannot read spikes: {first_line(error)}") from error
        self.interpreter.env[node] = value
        if node in self.timed and node in self.shapes:
            rows, *rest = self.shapes[node] or (0,)
            if value.shape != (self.steps * rows, *rest):
                raise UserError(
                    f"{describe(self.graph, node)} is not supported between spikes and output: it must keep the rows "
                    "of the batch apart"
                )

    def fill_slot(self, node: fx.Node) -> None:
        """Replace an activation by neurons, with a threshold from the current that it receives."""
        self.unscale(node, node.all_input_nodes[0])
        source = node.all_input_nodes[0]
        current = self.interpreter.env[source]
        name = slot_name(self.graph, node)
        channels = current.shape[1] if current.dim() == 4 else None
        layer = self.neuron.behind(channels, self.steps, encoder=source not in self.timed)
        short = name.removesuffix(".act")
        if not layer.calibrate(current, self.percentile):
            self.silent.add(short)
        if self.given:
            layer.load_state_dict(self.given_state(short))
        self.graph.add_submodule(name, layer.to(current.device))
        node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}
        self.scale[node] = float(layer.spike_value)

    def given_state(self, name: str) -> dict[str, Tensor]:
        """Return the threshold and leak that are to be taken for a layer."""
        if name not in self.given:
            raise UserError(f"the network whose thresholds are to be taken has no spiking layer {name!r}")
        return self.given[name].state_dict()

    def pass_on(self, node: fx.Node) -> None:
        """Carry the inputs' scale to the output, or into the weights."""
        what = operation(self.graph, node)
        first = node.all_input_nodes[0]
        if what in SUMS:
            self.meet(node, what)
        elif first in self.timed and isinstance(what, type) and issubclass(what, SCALABLE):
            self.scale_weights(node, first)
        elif first in self.timed and what in TRANSPARENT:
            if what is nn.Dropout:
                self.hold_mask(node)
            if what in RESHAPES:
                self.count_rows_at_every_step(node)
            if isinstance(self.scale[first], Tensor) and self.shapes[node] != self.shapes[first]:
                self.unscale(node, first)
            self.scale[node] = self.scale[node.all_input_nodes[0]]
        else:
            raise UserError(
                f"{describe(self.graph, node)} is not supported between spikes and output; supported are linear and "
                "convolutional layers, average pooling, flatten, concatenation, sums, ReLU and activations to distil"
            )

    def hold_mask(self, node: fx.Node) -> None:
        """Let dropout leave out the same neurons at every step."""
        dropout = self.graph.get_submodule(str(node.target))
        assert isinstance(dropout, nn.Dropout)
        node.target = f"{node.name}_held"
        self.graph.add_submodule(node.target, HeldDropout(dropout.p, self.steps).eval())

    def count_rows_at_every_step(self, node: fx.Node) -> None:
        """Let spikes that are reshaped by the batch size of an input be reshaped by T times as many rows."""
        sizes = node.args[1] if len(node.args) > 1 else node.kwargs.get("shape", ())
        rows = sizes[0] if isinstance(sizes, tuple | list) and sizes else sizes
        if isinstance(rows, fx.Node) and not self.follows_spikes(rows):
            replace_input(node, rows, self.at_every_step(node, rows))

    def follows_spikes(self, node: fx.Node) -> bool:
        """Say whether a number was read off spikes."""
        return node in self.timed or any(self.follows_spikes(source) for source in node.all_input_nodes)

    def scale_weights(self, node: fx.Node, source: fx.Node) -> None:
        """Multiply the input's scale into the weights of a layer, or into its input if something else uses them too."""
        layer = self.graph.get_submodule(str(node.target))
        if not has_own_weight(layer):
            raise UserError(f"{describe(self.graph, node)} has a computed weight: remove its parametrisation first")
        if self.is_shared(layer):
            self.unscale(node, source)
        else:
            assert isinstance(layer.weight, Tensor)
            layer.weight.mul_(self.scale[source])
        self.scale[node] = 1.0

    def is_shared(self, layer: nn.Module) -> bool:
        """Say whether the layer is called twice or has parameters in common with another."""
        return any(self.uses[id(parameter)] > 1 for parameter in layer.parameters())

    def meet(self, node: fx.Node, what: Any) -> None:
        """Let several inputs meet: at every step, and at one scale, or feature by feature when joining vectors."""
        operands = self.operands(node, what)
        for operand in set(operands) - self.timed:
            replace_input(node, operand, self.at_every_step(node, operand))
        operands = self.operands(node, what)
        scales = [self.scale[operand] for operand in operands]
        values = [self.interpreter.env[operand] for operand in operands]
        if all(isinstance(scale, float) and scale == scales[0] for scale in scales):
            self.scale[node] = scales[0]
        elif what not in ADDITIONS and all(value.dim() == 2 for value in values):
            parts = [value.new_ones(value.shape[1]) * scale for scale, value in zip(scales, values, strict=True)]
            self.scale[node] = torch.cat(parts)
        else:
            for source in node.all_input_nodes:
                self.unscale(node, source)
            self.scale[node] = 1.0

    def operands(self, node: fx.Node, what: Any) -> list[fx.Node]:
        """Return the tensors that a sum or a concatenation reads."""
        if what in ADDITIONS:
            found = [*node.args[:2], *(node.kwargs[key] for key in ("input", "other") if key in node.kwargs)]
            found = [operand for operand in found if operand != 0]
        else:
            found = list(node.args[0] if node.args else node.kwargs["tensors"])  # type: ignore[arg-type]
            dimension = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if dimension in (0, -len(self.shapes[node])):
                raise UserError(f"{describe(self.graph, node)} joins rows of the batch: not supported after spikes")
        if not all(isinstance(operand, fx.Node) and operand.op != "get_attr" for operand in found):
            raise UserError(f"{describe(self.graph, node)} adds a constant: make it the bias of a layer")
        return [operand for operand in found if isinstance(operand, fx.Node)]

    def at_every_step(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """Return a value that repeats ``source`` at every step, for ``node`` and those after it."""
        if source not in self.repeated:
            name = f"{source.name}_at_every_step"
            self.graph.add_submodule(name, ExpandTime(self.steps))
            with self.graph.graph.inserting_before(node):
                repeated = self.repeated[source] = self.graph.graph.call_module(name, (source,))
            self.timed.add(repeated)
            self.scale[repeated] = 1.0
            self.evaluate(repeated)
        return self.repeated[source]

    def unscale(self, node: fx.Node, source: fx.Node) -> None:
        """Put a multiplication in front of ``node`` so that it reads ``source`` in the ordinary network's units."""
        scale = self.scale.get(source, 1.0)
        if isinstance(scale, Tensor):
            raise UserError(f"{describe(self.graph, node)} reads spikes of several layers at once: not supported there")
        if scale == 1.0:
            return
        with self.graph.graph.inserting_before(node):
            product = self.graph.graph.call_function(torch.mul, (source, scale))
        replace_input(node, source, product)
        self.timed.add(product)
        self.scale[product] = 1.0
        self.evaluate(product)

    def divide_heads(self, output: fx.Node) -> None:
        """Divide the layers that feed the output by T, as the readout sums over T."""
        answer = output.args[0]
        if not isinstance(answer, fx.Node) or answer not in self.timed:
            raise UserError("the network's output does not depend on any activation that could spike")
        linear = {output}
        if not self.find_heads(answer, linear) or any(not linear.issuperset(node.users) for node in linear):
            raise UserError("the network's output must come from linear layers of its own: give it a linear head")
        for name in self.heads:
            for parameter in self.graph.get_submodule(name).parameters(recurse=False):
                parameter.div_(self.steps)

    def find_heads(self, node: fx.Node, linear: set[fx.Node]) -> bool:
        """Collect the weighted layers that reach the output through linear operations; False if others do as well."""
        linear.add(node)
        what = operation(self.graph, node)
        if isinstance(what, type) and issubclass(what, WEIGHTED):
            layer = self.graph.get_submodule(str(node.target))
            self.heads.add(str(node.target))
            return has_own_weight(layer) and not self.is_shared(layer)
        if what in SUMS:
            return all(self.find_heads(operand, linear) for operand in self.operands(node, what))
        return (what in TRANSPARENT or what is ExpandTime) and self.find_heads(node.all_input_nodes[0], linear)
