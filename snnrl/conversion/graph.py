"""Trace a network with torch.fx and sort its operations by what they mean for spikes."""

import inspect
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torch.nn import functional

from snnrl.errors import UserError
from snnrl.files import first_line
from snnrl.networks.layers import HeldDropout
from snnrl.networks.mlp import FullPrecisionLinear
from snnrl.networks.resnet import IdentityShortcut
from snnrl.neurons import SpikingNeuron

EXACT_ACTIVATIONS = {nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"}
"""Activations whose spiking counterpart tends to the same values as T grows."""

INEXACT_ACTIVATIONS = {
    *(nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.ReLU6, nn.Softplus),
    *(torch.tanh, torch.sigmoid, functional.tanh, functional.sigmoid, functional.gelu, functional.silu),
    *(functional.elu, functional.selu, functional.celu, functional.leaky_relu, functional.relu6, functional.mish),
    *(functional.softplus, "tanh", "tanh_", "sigmoid", "sigmoid_"),
}
"""Activations that spikes only replace, so that the network must be distilled afterwards."""

OTHER_ACTIVATIONS = {
    *("abs", "clamp", "clamp_max", "clamp_min", "clip", "cos", "elu", "exp", "glu", "hardshrink", "hardsigmoid"),
    *("hardswish", "hardtanh", "leaky_relu", "log", "log_softmax", "logsigmoid", "maximum", "minimum", "prelu"),
    *("rrelu", "sin", "softmax", "softshrink", "softsign", "sqrt", "square", "tanhshrink", "threshold"),
}
"""Names of functions and methods that no spiking neuron replaces."""

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
WEIGHTED_KINDS = (*WEIGHTED, FullPrecisionLinear)
SCALABLE = (*WEIGHTED, IdentityShortcut)
"""Layers that can take a constant factor of their input into their weight."""

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
TRANSPARENT = {
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, HeldDropout, nn.AvgPool1d, nn.AvgPool2d),
    *(
        nn.AdaptiveAvgPool1d,
        nn.AdaptiveAvgPool2d,
        functional.avg_pool1d,
        functional.avg_pool2d,
        functional.adaptive_avg_pool1d,
    ),
    *(functional.adaptive_avg_pool2d, functional.dropout, torch.flatten, torch.reshape, torch.permute, torch.transpose),
    *("flatten", "view", "reshape", "contiguous", "permute", "transpose", "mean", torch.mean, operator.getitem),
}
"""Operations that pass a constant factor of their input on to their output."""

LEAVES = (SpikingNeuron, IdentityShortcut, HeldDropout)
"""Modules of our own that count as one operation."""

RESHAPES = {torch.reshape, "view", "reshape"}
"""Of these, those that are given the number of rows."""

ADDITIONS = {operator.add, operator.sub, torch.add, torch.sub, "add", "sub"}
SUMS = {*ADDITIONS, torch.cat, torch.concat}
"""Linear operations on several inputs of the same scale."""

IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
}
"""Operations that overwrite their first input, and those that give the same value without."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        # a subclass that only starts from other weights computes what its parent does
        kin = any(isinstance(module, kind) and type(module).forward is kind.forward for kind in WEIGHTED_KINDS)
        return kin or isinstance(module, LEAVES) or super().is_leaf_module(module, qualified_name)


def trace(network: nn.Module) -> fx.GraphModule:
    """Return ``network`` as a graph that shares its parameters and module names.

    Raises:
        UserError: its forward depends on values that are only known when it runs.
    """
    try:
        graph = _Tracer().trace(network, concrete_args=_defaults(network))
    except Exception as error:
        # whatever the user's own forward raises when it meets a stand-in for a tensor
        reason = first_line(error).split(". ")[0]
        raise UserError(
            f"{type(network).__name__} cannot be traced ({reason}): its forward must not branch on tensor values; "
            "rewrite that part, or convert the sub-module that holds the layers"
        ) from error
    _without_optional_inputs(graph)
    module = fx.GraphModule(network, graph)
    _without_overwriting(module)
    return module


def _defaults(network: nn.Module) -> dict[str, Any]:
    """Return the default of every optional argument of the forward after the observations."""
    arguments = list(inspect.signature(network.forward).parameters.values())[1:]
    return {argument.name: argument.default for argument in arguments if argument.default is not argument.empty}


def _without_optional_inputs(graph: fx.Graph) -> None:
    """Remove the inputs that were fixed to their default, and torch's assertions that they have it."""
    for node in reversed(graph.nodes):
        asserts = node.op == "call_function" and node.target in (torch._assert, fx._symbolic_trace._assert_is_none)
        fixed = node.op == "placeholder" and node is not next(iter(graph.nodes))
        if asserts or ((fixed or node.target is operator.eq) and not node.users):
            graph.erase_node(node)


def _without_overwriting(graph: fx.GraphModule) -> None:
    """Replace operations in place by ordinary ones, and let whatever reads the overwritten value read their result."""
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        in_place = node.target in IN_PLACE or (isinstance(node.target, str) and node.target.endswith("_"))
        if node.op == "call_module":
            in_place = getattr(graph.get_submodule(node.target), "inplace", False)
        if in_place or node.target is torch.relu_ or node.kwargs.get("inplace"):
            for reader in list(node.all_input_nodes[0].users):
                if order[reader] > order[node]:
                    replace_input(reader, node.all_input_nodes[0], node)
            node.target = IN_PLACE.get(node.target, node.target)


def has_own_weight(layer: nn.Module) -> bool:
    """Say whether the layer's weight is a parameter of its own, not computed from others (weight norm and the like)."""
    return "weight" in layer._parameters


def parameter_uses(graph: fx.GraphModule) -> Counter[int]:
    """Count by ``id`` how often the forward uses each parameter: twice if a layer is called twice or weights tied."""
    uses: Counter[int] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            uses.update(id(parameter) for parameter in graph.get_submodule(node.target).parameters())
        elif node.op == "get_attr":
            uses[id(operator.attrgetter(node.target)(graph))] += 1
    return uses


def operation(graph: fx.GraphModule, node: fx.Node) -> Any:
    """Return what a node does: the class of the module it calls, the function, or the method's name."""
    return type(graph.get_submodule(str(node.target))) if node.op == "call_module" else node.target


def describe(graph: fx.GraphModule, node: fx.Node) -> str:
    """Name a node for an error message, as a user knows it."""
    what = operation(graph, node)
    name = what if isinstance(what, str) else getattr(what, "__name__", str(what))
    return f"{name} at {node.target if node.op == 'call_module' else node.name!r}"


def is_other_activation(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the node is an activation that no spiking neuron replaces, such as PReLU or a clamp."""
    if node.op not in ("call_module", "call_function", "call_method") or is_activation(graph, node):
        return False
    what = operation(graph, node)
    if isinstance(what, type):
        return what.__module__ == "torch.nn.modules.activation" and not issubclass(what, nn.MultiheadAttention)
    name = what if isinstance(what, str) else getattr(what, "__name__", "")
    return name.removesuffix("_") in OTHER_ACTIVATIONS


def is_activation(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Say whether the node is an activation that a spiking neuron can replace."""
    if node.op not in ("call_module", "call_function", "call_method"):
        return False
    what = operation(graph, node)
    return what in EXACT_ACTIVATIONS or what in INEXACT_ACTIVATIONS


def slot_name(graph: fx.GraphModule, node: fx.Node) -> str:
    """Return a module path for the activation: its own, or a new one for a function or a module used twice."""
    if node.op == "call_module" and not isinstance(graph.get_submodule(str(node.target)), SpikingNeuron):
        return str(node.target)
    name = str(node.target) if node.op == "call_module" else node.name
    taken = {name for name, _ in graph.named_modules(remove_duplicate=False)}
    while name in taken or hasattr(graph, name):
        name += "_again"
    return name


def timed_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose value differs from step to step: activations and all that follows from them."""
    timed: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "get_attr") or node.target in ("size", "dim"):
            continue
        after_spikes = any(source in timed for source in node.all_input_nodes)
        if is_activation(graph, node) or (after_spikes and node.target is not getattr):
            timed.add(node)
    return timed


def replace_input(node: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Let ``node`` read ``new`` where it read ``old``."""
    substitute: Callable[[fx.Node], fx.Node] = lambda source: new if source is old else source  # noqa: E731
    node.args = map_arg(node.args, substitute)
    node.kwargs = map_arg(node.kwargs, substitute)
