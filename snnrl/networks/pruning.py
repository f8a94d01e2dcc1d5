"""Magnitude pruning: the smallest weights are taken away, and stay away while the others are trained."""

import torch
from torch import nn
from torch.nn.utils import prune


def prune_weights(network: nn.Module, share: float, *, by_layer: bool) -> None:
    """Set ``share`` of the weights of linear and convolutional layers to zero, in place.

    Those of the smallest magnitude of all, or ``by_layer`` of each layer (Han et al. 2015, arXiv 1506.02626; arXiv
    2110.05929, Sec. 5). Biases, thresholds and leaks stay.
    """
    weights = [(layer, "weight") for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if by_layer:
        for layer, name in weights:
            prune.l1_unstructured(layer, name, share)  # type: ignore[no-untyped-call]
    else:
        prune.global_unstructured(weights, prune.L1Unstructured, amount=share)
    for layer, name in weights:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]


class Pruned:
    """The weights of a network that are zero now."""

    def __init__(self, network: nn.Module) -> None:
        weights = [value for value in network.parameters() if value.requires_grad and value.dim() > 1]
        self.zeros = [(value, value == 0) for value in weights if not value.all()]

    @torch.no_grad()
    def hold(self) -> None:
        """Set them to zero again, after an optimiser step."""
        for value, zeros in self.zeros:
            value.masked_fill_(zeros, 0.0)
