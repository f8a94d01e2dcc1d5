"""Counts of one network on several batches, taken together: what a forward on all at once would not fit in memory."""

from collections.abc import Sequence
from dataclasses import replace

from snnrl.energy.operations import LayerOperations

TOTALS = ("decisions", "events", "active", "spikes", "resets")
"""What is counted over decisions; the rest is the same for each."""


def add_batches(batches: Sequence[Sequence[LayerOperations]]) -> tuple[LayerOperations, ...]:
    """Return the counts on the observations of all batches, layer by layer."""
    return tuple(_add(layers) for layers in zip(*batches, strict=True))


def _add(layers: Sequence[LayerOperations]) -> LayerOperations:
    totals = {name: sum(getattr(layer, name) for layer in layers) for name in TOTALS}
    return replace(layers[0], spiking=all(layer.spiking for layer in layers), **totals)
