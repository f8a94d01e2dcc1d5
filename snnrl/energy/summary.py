"""Energy of a decision: every operation times its cost, the spiking network's beside the ordinary one's."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from snnrl.energy.costs import Cost, CostTable, read_costs
from snnrl.energy.operations import LayerOperations

Tally = dict[str, float]
"""How many operations of each kind of :class:`snnrl.energy.costs.Operations`."""


def tally(layer: LayerOperations, table: CostTable, *, skip_zeros: bool | None = None) -> Tally:
    """Return the operations of a layer and its neurons in one decision; weights that are zero are not there.

    Spiking input counts as its mean rate times all products (arXiv 2110.05929, Eq. 4) or by the spikes' real fan-out,
    as the table has it. ``skip_zeros``: whether products with zero are left out; by default where the input spikes.
    Weights are read once a pass; inputs are read, outputs written once; potentials are stored between two steps, or
    where they are handed to other neurons.
    """
    skip = layer.spiking if skip_zeros is None else skip_zeros
    if not skip:
        products = float((layer.macs - (skip_zeros is None) * layer.zero_macs) * layer.passes)
    elif table.products == "rate" and layer.input_rate is not None:
        products = layer.input_rate * (layer.macs - layer.zero_macs)
    else:
        products = layer.active / layer.decisions
    stored = layer.neurons * max(layer.steps - 1, 0) + layer.handed
    return {
        "multiply_accumulate": 0.0 if layer.spiking else products,
        "accumulate": products if layer.spiking else 0.0,
        "multiply": stored * layer.leaks,
        "add": layer.biases * layer.passes + layer.rectified + stored + layer.resets / layer.decisions,
        "compare": layer.neurons * layer.steps,
        "weight_read": (layer.parameters - layer.zero_weights) * layer.passes,
        "value_read": 0 if layer.spiking else layer.inputs * layer.passes,
        "value_write": 0 if layer.neurons else layer.outputs * layer.passes,
        "spike_read": layer.inputs * layer.passes if layer.spiking else 0,
        "spike_write": layer.neurons * layer.steps,
        "potential_read": stored,
        "potential_write": stored,
    }


def price(operations: Mapping[str, float], table: CostTable) -> float:
    """Return the energy of the operations in pJ."""
    costs: dict[str, Cost] = dict(table.operations)
    return sum(count * costs[kind].pJ for kind, count in operations.items())


def spiking_energy(layers: Sequence[LayerOperations], table: CostTable, *, skip_zeros: bool | None = None) -> float:
    """Return the energy in pJ of one decision of the network that was counted."""
    return sum(price(tally(layer, table, skip_zeros=skip_zeros), table) for layer in layers)


def ordinary_energy(layers: Sequence[LayerOperations], table: CostTable, *, skip_zeros: bool = False) -> float:
    """Return the energy in pJ of one decision of the ordinary network with these layers, every product once.

    With ``skip_zeros`` the layers must be those of the ordinary network itself, counted on its own values.
    """
    return spiking_energy([layer.ordinary for layer in layers], table, skip_zeros=skip_zeros)


def energy_ratio(layers: Sequence[LayerOperations], table: CostTable | None = None) -> float:
    """Return alpha, the ordinary network's energy over the spiking one's; by default as in arXiv 2110.05929, Eq. 4:

    alpha = sum_l MAC_l * 4.6 / (MAC_1 * 4.6 + sum_{l>1} rate_l * MAC_l * 0.9). That counts arithmetic alone: no memory
    traffic, and hardware that skips absent spikes. A network in which nothing happens at all is charged one accumulate.
    """
    table = table or read_costs("paper")
    return ordinary_energy(layers, table) / max(spiking_energy(layers, table), table.operations.accumulate.pJ)


class Assumption(NamedTuple):
    """One way to look at the same counts: a cost table, and which products with zero are left out."""

    text: str
    table: str
    skip_zeros: bool | None = None
    """True: both networks, in every layer; False: neither; None: the spiking one, where its input spikes."""
    same_input: bool = False
    """Whether the ordinary network sees the planes of 0 and 1 that the spiking one sees: its first layer adds too."""


ASSUMPTIONS = (
    Assumption("the paper's arithmetic, spikes by their mean rate", "paper"),
    Assumption("all arithmetic: neurons, biases, the spikes' real fan-out", "arithmetic"),
    Assumption("the same in 8 bits, 32-bit sums", "int8"),
    Assumption("hardware that skips zeros of the ordinary network as well", "arithmetic", skip_zeros=True),
    Assumption("the same, the ordinary network seeing the same planes", "arithmetic", skip_zeros=True, same_input=True),
    Assumption("dense hardware: an absent spike costs as much as a spike", "arithmetic", skip_zeros=False),
    Assumption("arithmetic and memory, everything in SRAM", "memory"),
    Assumption("arithmetic and memory, weights in DRAM", "dram"),
    Assumption("synapses and neurons of Loihi, products of the ordinary network in 45 nm", "loihi"),
)


def what_if(
    layers: Sequence[LayerOperations], ordinary: Sequence[LayerOperations] | None
) -> dict[Assumption, float | None]:
    """Return the energy ratio under every assumption; None where it takes the ordinary network, which is not given.

    One of them is for a network that sees planes (:class:`snnrl.networks.View`): its ordinary counterpart then has the
    same encoding and first layer, and the values counted on grey frames behind it.
    """
    found: dict[Assumption, float | None] = {}
    encoding = [layer for layer in layers if not layer.grey]
    for assumption in ASSUMPTIONS:
        if assumption.same_input and not encoding:
            continue
        table = read_costs(assumption.table)
        if assumption.skip_zeros and ordinary is None:
            found[assumption] = None
            continue
        if assumption.same_input and ordinary is not None:
            shared = spiking_energy(layers[: len(encoding) + 1], table)
            theirs = shared + ordinary_energy(ordinary[1:], table, skip_zeros=True)
        else:
            theirs = ordinary_energy(ordinary or layers, table, skip_zeros=bool(assumption.skip_zeros))
        ours = spiking_energy(layers, table, skip_zeros=assumption.skip_zeros)
        found[assumption] = theirs / max(ours, table.operations.accumulate.pJ)
    return found


def cap(layers: Sequence[LayerOperations], table: CostTable) -> float:
    """Return the ratio that no sparsity exceeds: what is left are the layers whose input is real-valued."""
    rest = spiking_energy([layer for layer in layers if not layer.spiking], table)
    return ordinary_energy(layers, table) / rest if rest else math.inf
