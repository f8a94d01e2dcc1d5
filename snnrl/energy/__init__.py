"""Energy of a decision, spiking against ordinary."""

from snnrl.energy.costs import ACCUMULATE_PJ, MULTIPLY_ACCUMULATE_PJ
from snnrl.energy.operations import LayerOperations, count_operations
from snnrl.energy.summary import energy_ratio, ordinary_energy, spiking_energy

__all__ = [
    "ACCUMULATE_PJ",
    "MULTIPLY_ACCUMULATE_PJ",
    "LayerOperations",
    "count_operations",
    "energy_ratio",
    "ordinary_energy",
    "spiking_energy",
]
