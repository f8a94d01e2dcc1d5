"""Magnitude pruning: the smallest weights are taken away and stay away while the others are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils import prune


@contextmanager
def pruned(network: nn.Module, share: float, *, by_layer: bool) -> Iterator[None]:
    """Hold ``share`` of the weights of linear and convolutional layers at zero inside the block, and leave them so.

    Those of the smallest magnitude of all, or ``by_layer`` of each layer (Han et al. 2015, arXiv 1506.02626; arXiv
    2110.05929, Sec. 5). Biases, thresholds and leaks stay.
    """
    weights = [(layer, "weight") for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if by_layer:
        for layer, name in weights:
            prune.l1_unstructured(layer, name, share)  # type: ignore[no-untyped-call]
    else:
        prune.global_unstructured(weights, prune.L1Unstructured, amount=share)
    yield
    for layer, name in weights:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]
