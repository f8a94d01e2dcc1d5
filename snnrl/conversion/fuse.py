"""Fold batch-norm into the layer before it."""

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snnrl.conversion.graph import NORMS, WEIGHTED, has_own_weight
from snnrl.errors import UserError


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Fold every batch-norm, in place: w' = w g / sqrt(var + eps), b' = (b - mean) g / sqrt(var + eps) + beta.

    Raises:
        UserError: a batch-norm does not directly follow a linear or convolutional layer of its own, or has no
            running statistics.
    """
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := graph.get_submodule(node.target), NORMS):
            continue
        (source,) = node.all_input_nodes
        layer = graph.get_submodule(source.target) if source.op == "call_module" else None
        if layer is None or len(source.users) > 1 or not _foldable(graph, layer, norm):
            raise UserError(
                f"batch-norm {node.target!r} cannot be folded: it must have running statistics and directly follow a "
                "linear or convolutional layer that nothing else reads; change that before converting"
            )
        graph.set_submodule(source.target, _folded(layer, norm))
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _foldable(graph: fx.GraphModule, layer: nn.Module, norm: _BatchNorm) -> bool:
    if not isinstance(layer, WEIGHTED) or not has_own_weight(layer):
        return False
    calls = [n for n in graph.graph.nodes if n.op == "call_module" and graph.get_submodule(n.target) is layer]
    return len(calls) == 1 and norm.running_mean is not None and norm.num_features == len(layer.weight)


def _folded(layer: nn.Module, norm: _BatchNorm) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm).requires_grad_(layer.weight.requires_grad)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    # a bias that was not there before is otherwise not trained
    return fuse_conv_bn_eval(layer, norm).requires_grad_(layer.weight.requires_grad)
