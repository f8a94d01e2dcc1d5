"""Energy of a decision layer by layer, the spiking network beside the ordinary one."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from snnrl.energy.costs import CostTable
from snnrl.energy.operations import LayerOperations
from snnrl.energy.summary import cap, ordinary_energy, price, spiking_energy, tally, what_if


class Breakdown(NamedTuple):
    """What a decision costs, and what its ratio becomes under other assumptions."""

    layers: list[dict[str, Any]]
    """A row per layer: its rates, operations of each kind, and energies in pJ."""
    spiking_pJ: float
    ordinary_pJ: float
    cap: float | None
    """The ratio that no sparsity exceeds, or None if there is no such limit."""
    what_if: dict[str, float | None]
    """Ratio by assumption; None where it takes an ordinary network that is not there."""

    @property
    def ratio(self) -> float:
        """Ordinary over spiking energy."""
        return self.ordinary_pJ / self.spiking_pJ


def break_down(
    layers: Sequence[LayerOperations], ordinary: Sequence[LayerOperations] | None, table: CostTable
) -> Breakdown:
    """Price the counts of a spiking network and, on the same observations, of its ordinary one.

    Without ``ordinary``, or where it is a network of other layers, such as a teacher, the spiking network's own layers
    count as an ordinary network's, every product once.
    """
    if ordinary is not None and not same_products(layers, ordinary):
        ordinary = None
    most = cap(layers, table)
    return Breakdown(
        [_row(layer, table) for layer in layers],
        spiking_energy(layers, table),
        ordinary_energy(ordinary or layers, table),
        most if math.isfinite(most) else None,
        {assumption.text: ratio for assumption, ratio in what_if(layers, ordinary).items()},
    )


def same_products(layers: Sequence[LayerOperations], ordinary: Sequence[LayerOperations]) -> bool:
    """Say whether an ordinary network has the layers of a spiking one, by their names and products."""
    found = {layer.name: layer.macs for layer in ordinary}
    return all(found.get(layer.name) == layer.ordinary.macs for layer in layers if layer.ordinary.macs)


def _row(layer: LayerOperations, table: CostTable) -> dict[str, Any]:
    ours, theirs = tally(layer, table), tally(layer.ordinary, table)
    return {
        "layer": layer.name,
        "input": "spikes" if layer.spiking else "real",
        "input_rate": layer.input_rate,
        "rate": layer.rate,
        "latency_steps": max(layer.steps, layer.passes),
        "parameter_bytes": 4 * layer.parameters,
        "state_bytes": 4 * layer.neurons if layer.steps > 1 else 0,
        **ours,
        "ordinary_multiply_accumulate": theirs["multiply_accumulate"],
        "spiking_pJ": price(ours, table),
        "ordinary_pJ": price(theirs, table),
    }
