"""What a conversion did: thresholds and rates per layer, and how far the spiking network agrees with the first."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

DEAD_RATE = 1e-4
"""Spikes per neuron and step below which a layer passes nothing on."""

SATURATED_RATE = 0.95
"""Spikes per neuron and step above which a layer says the same whatever it sees."""


class LayerReport(NamedTuple):
    """One spiking layer: its threshold, spikes per neuron and decision, and T."""

    name: str
    threshold: float
    rate: float
    steps: int
    silent: bool

    @property
    def advice(self) -> str | None:
        """What is wrong with the layer and what to do about it; None if nothing is."""
        if self.silent or self.rate / self.steps < DEAD_RATE:
            return f"layer {self.name} is dead (rate {self.rate:.5f}): lower --percentile, or train the network longer"
        if self.rate / self.steps > SATURATED_RATE:
            return f"layer {self.name} is saturated (rate {self.rate:.2f} of {self.steps}): raise --percentile"
        return None


class ConversionReport(NamedTuple):
    """Per layer, and overall: share of equal greedy actions and mean |Q error| over the spread (std) of the ANN's Q."""

    layers: tuple[LayerReport, ...]
    inexact: tuple[str, ...]
    dense: tuple[str, ...]
    action_agreement: float
    q_error: float

    @property
    def advice(self) -> list[str]:
        """Everything that a user should know before relying on the network."""
        found = [layer.advice for layer in self.layers if layer.advice]
        if self.inexact:
            found.append(f"{', '.join(self.inexact)}: spikes only approximate this activation; distil the network")
        if self.dense:
            found.append(f"{', '.join(self.dense)}: no neuron replaces this activation, it stays before the spikes")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        layers = [
            {"name": layer.name, "threshold": layer.threshold, "rate": layer.rate, "advice": layer.advice}
            for layer in self.layers
        ]
        return {
            "layers": layers,
            "inexact": list(self.inexact),
            "dense": list(self.dense),
            "action_agreement": self.action_agreement,
            "q_error": self.q_error,
        }


def agreement(expected: Tensor, answer: Tensor) -> tuple[float, float]:
    """Return the share of equal greedy actions and the mean |Q error| over the std of ``expected``; both ``(B, K)``."""
    same = (expected.argmax(1) == answer.argmax(1)).float().mean()
    spread = expected.std() if expected.numel() > 1 else torch.ones(())
    return float(same), float((answer - expected).abs().mean() / spread.clamp(min=1e-12))
