"""Energy of a decision, spiking against ordinary."""

from snnrl.energy.batches import add_batches
from snnrl.energy.breakdown import Breakdown, break_down
from snnrl.energy.costs import CostTable, cost_tables, read_costs
from snnrl.energy.operations import LayerOperations, count_operations, counting_operations, counts
from snnrl.energy.summary import Assumption, cap, energy_ratio, ordinary_energy, price, spiking_energy, tally, what_if

__all__ = [
    "Assumption",
    "Breakdown",
    "CostTable",
    "LayerOperations",
    "add_batches",
    "break_down",
    "cap",
    "cost_tables",
    "count_operations",
    "counting_operations",
    "counts",
    "energy_ratio",
    "ordinary_energy",
    "price",
    "read_costs",
    "spiking_energy",
    "tally",
    "what_if",
]
