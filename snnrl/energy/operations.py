"""Count the operations of a network's linear and convolutional layers on observations that it meets."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class LayerOperations(NamedTuple):
    """One weighted layer: multiply-accumulates of one dense pass, how often it runs, and its input's spike rate.

    ``input_rate`` is spikes per input and decision (summed over T), or None where the input is real-valued and every
    product must be computed in each of ``passes`` per decision.
    """

    name: str
    macs: int
    passes: int
    input_rate: float | None


@torch.no_grad()
def count_operations(network: nn.Module, observations: Any, batch: int) -> tuple[LayerOperations, ...]:
    """Run ``network`` on a batch of ``batch`` observations and count per layer, in the order of the forward.

    A layer's input counts as spikes if every value is 0 or 1; a layer after average pooling therefore counts as dense.
    """
    counted: list[LayerOperations] = []

    def hook(name: str) -> Any:
        def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            (values,) = inputs
            spikes = bool(((values == 0) | (values == 1)).all())
            rate = float(values.sum(dtype=torch.float64)) / (batch * values[0].numel()) if spikes else None
            counted.append(LayerOperations(name, _macs(layer, output), len(values) // batch, rate))

        return record

    layers = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv1d)]
    handles = [layer.register_forward_hook(hook(name.removesuffix(".weights"))) for name, layer in layers]
    try:
        network(observations)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(counted)


def _macs(layer: nn.Module, output: Tensor) -> int:
    """Multiply-accumulates for one row of output: outputs times the weights that each one reads."""
    assert isinstance(layer.weight, Tensor)
    return output[0].numel() * layer.weight[0].numel()
