"""What can be added to the loss of a spiking network: a price on spikes, and the Hoyer regulariser."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from snnrl.networks.spiking import hoyer_measures, neurons_of, spike_rates

BATCH = 128
"""Images in a batch of arXiv 2212.10170, for which its strengths of the Hoyer regulariser are given."""


class Prices(Protocol):
    """Weights in the loss, 0 or more."""

    @property
    def spike_penalty(self) -> float:
        """Of the spikes per neuron and decision, the mean over layers."""

    @property
    def hoyer_penalty(self) -> float:
        """Of the sum over layers of the Hoyer measure of a batch of 128."""


class Penalty:
    """Adds to a loss what the forward inside :func:`penalized` costs."""

    def __init__(self) -> None:
        self.terms: list[Tensor] = []

    def add_to(self, loss: Tensor) -> Tensor:
        """Return the loss, and what is to be added to it."""
        for term in self.terms:
            loss = loss + term
        return loss


@contextmanager
def penalized(network: nn.Module, prices: Prices) -> Iterator[Penalty]:
    """Watch the forward inside the block; what is not priced is not computed, and an ordinary network has no price.

    spike_penalty * mean_l rate_l + hoyer_penalty * 128 / B * sum_l H_l, H_l as :func:`snnrl.neurons.hoyer_measure` over
    the batch of B, summed over timesteps (arXiv 2212.10170; scaled to its batches).
    """
    penalty = Penalty()
    with ExitStack() as watching:
        rates = watching.enter_context(spike_rates(network)) if prices.spike_penalty else {}
        measures = (
            watching.enter_context(hoyer_measures(network)) if prices.hoyer_penalty and neurons_of(network) else []
        )
        yield penalty
    if rates:
        penalty.terms.append(prices.spike_penalty * torch.stack([*rates.values()]).mean())
    if measures:
        penalty.terms.append(prices.hoyer_penalty * BATCH * torch.stack(measures).sum())
