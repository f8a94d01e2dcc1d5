"""The paper's energy model: how much less a spiking network's arithmetic costs than the ordinary network's."""

from collections.abc import Sequence

from snnrl.energy.costs import ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ
from snnrl.energy.operations import LayerOperations


def ordinary_energy(layers: Sequence[LayerOperations]) -> float:
    """Return the energy in pJ of one decision of the ordinary network with these layers: every product once."""
    return sum(layer.macs for layer in layers) * MULTIPLY_ACCUMULATE_PJ


def spiking_energy(layers: Sequence[LayerOperations]) -> float:
    """Return the energy in pJ of one decision: accumulates where the input spikes, multiply-accumulates elsewhere."""
    return sum(
        layer.macs * layer.passes * MULTIPLY_ACCUMULATE_PJ
        if layer.input_rate is None
        else layer.macs * layer.input_rate * ACCUMULATE_PJ
        for layer in layers
    )


def energy_ratio(layers: Sequence[LayerOperations]) -> float:
    """Return alpha, the ordinary network's energy over the spiking one's (arXiv 2110.05929, Eq. 4, input rates).

    alpha = sum_l MAC_l * 4.6 / (MAC_1 * 4.6 + sum_{l>1} rate_l * MAC_l * 0.9). It counts arithmetic alone: no memory
    traffic, and hardware that skips absent spikes. A network in which nothing happens at all is charged one accumulate.
    """
    return ordinary_energy(layers) / max(spiking_energy(layers), ACCUMULATE_PJ)
