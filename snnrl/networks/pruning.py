"""Magnitude pruning: the smallest weights are taken away, and stay away while the others are trained."""

import torch
from torch import nn


@torch.no_grad()
def prune_weights(network: nn.Module, share: float, *, by_layer: bool) -> None:
    """Set ``share`` of the weights of linear and convolutional layers to zero, in place.

    Those of the smallest magnitude of all, or ``by_layer`` of each layer (Han et al. 2015, arXiv 1506.02626; arXiv
    2110.05929, Sec. 5). Biases, thresholds and leaks stay.
    """
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for group in [[weight] for weight in weights] if by_layer else [weights]:
        sizes = torch.cat([weight.abs().flatten() for weight in group])
        kept = torch.ones_like(sizes)
        kept[sizes.topk(round(share * len(sizes)), largest=False).indices] = 0
        for weight, its in zip(group, torch.split(kept, [weight.numel() for weight in group]), strict=True):
            weight.mul_(its.view(weight.shape))


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
