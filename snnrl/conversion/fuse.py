"""Fold batch-norm into the layer before it."""

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snnrl.conversion.graph import NORMS, WEIGHTED
from snnrl.errors import UserError


def fold_batch_norm(graph: fx.GraphModule) -> None:
    """Fold every batch-norm, in place: w' = w g / sqrt(var + eps), b' = (b - mean) g / sqrt(var + eps) + beta.

    Raises:
        UserError: a batch-norm does not directly follow a linear or convolutional layer of its own.
    """
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], NORMS):
            continue
        source = node.args[0]
        layer = modules.get(source.target) if source.op == "call_module" else None
        if not isinstance(layer, WEIGHTED) or len(source.users) > 1:
            raise UserError(
                f"batch-norm {node.target!r} cannot be folded: it must directly follow a linear or convolutional layer "
                "that nothing else reads; move it there before converting"
            )
        norm = modules[node.target].eval()
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        graph.set_submodule(source.target, fuse(layer.eval(), norm))
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        graph.delete_submodule(node.target)
    graph.recompile()
