"""What every kind of spiking neuron shares: it fills an activation slot and sees time folded into the batch."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from snnrl.neurons.functional import Scan, sum_rows


class SpikeCount:
    """The spikes that every neuron of a layer sent while recording: ``spikes``, in the shape of the layer."""

    def __init__(self) -> None:
        self.spikes = torch.zeros(())
        self.decisions = 0

    def add(self, spikes: Tensor, steps: int) -> None:
        """Count the spikes ``(T * B, ...)`` of B decisions in T ``steps``."""
        self.spikes = self.spikes + sum_rows(spikes)
        self.decisions += len(spikes) // steps

    @property
    def rates(self) -> Tensor:
        """Spikes that each neuron sends in one decision (between 0 and T), in the shape of the layer."""
        return self.spikes / max(self.decisions, 1)

    @property
    def rate(self) -> float:
        """Their mean over the neurons."""
        return float(self.rates.mean(dtype=torch.float64))


class SpikingNeuron(nn.Module, ABC):
    """A layer of spiking neurons in an activation slot.

    Input ``(T * B, ...)``, time-major, or ``(B, ...)`` for an ``encoder``: the first spiking layer of a branch, whose
    current is the same at every step and therefore computed once (direct encoding). Output ``(T * B, ...)``, 0 or 1.
    Potentials start at zero in every forward; only :func:`snnrl.networks.spiking.carried` passes them on.
    """

    leaks: ClassVar[bool] = True
    """Whether a step multiplies the potential by a leak: one operation more to be counted."""
    one_step: ClassVar[bool] = False
    """Whether they decide in one timestep alone."""

    def __init__(self, steps: int, *, encoder: bool = False) -> None:
        super().__init__()
        self.steps = steps
        self.encoder = encoder
        self.keep_potential = False
        self.potential: Tensor | None = None
        self.count: SpikeCount | None = None
        self.percentile: float | None = None
        self.lower_only = False

    @classmethod
    def behind(cls, channels: int | None, steps: int, *, encoder: bool) -> "SpikingNeuron":
        """Return neurons for a layer with so many ``channels``, maps of a convolution, or None: a linear one.

        For kinds that keep something of each map.
        """
        return cls(steps, encoder=encoder)

    @abstractmethod
    def scan(self, current: Tensor) -> Scan:
        """Run ``steps`` timesteps over ``current`` of shape ``(T or 1, B, ...)``, starting from ``self.potential``."""

    @abstractmethod
    def fire(self, current: Tensor) -> Tensor:
        """Return the spikes of one timestep from a zero potential, any shape: a scan without time, and much faster."""

    @abstractmethod
    def calibrate(self, current: Tensor, percentile: float, *, lower_only: bool = False) -> bool:
        """Set the threshold from pre-activations of any shape; return False if none of them is positive.

        With ``lower_only`` a threshold that is low enough already stays.
        """

    @property
    @abstractmethod
    def spike_value(self) -> float:
        """What one spike stands for in the ordinary network's units: the threshold it took to send it."""

    @property
    @abstractmethod
    def level(self) -> Tensor:
        """The least current that fires at one timestep, 0-dim or of each map ``(C,)``."""

    @abstractmethod
    def constrain(self) -> None:
        """Put the parameters back into their range, after an optimiser step."""

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes ``(T * B, ...)`` for a current ``(T * B, ...)``, or ``(B, ...)`` for an encoder."""
        if self.percentile is not None:
            self.calibrate(current, self.percentile, lower_only=self.lower_only)
        spikes = self._spikes(current)
        if self.count is not None:
            self.count.add(spikes, self.steps)
        return spikes

    def _spikes(self, current: Tensor) -> Tensor:
        if self.steps == 1 and not self.keep_potential:
            return self.fire(current)
        once = self.encoder or self.steps == 1
        by_time = current.unsqueeze(0) if once else current.view(self.steps, -1, *current.shape[1:])
        spikes, last = self.scan(by_time)
        if self.keep_potential:
            self.potential = last
        return spikes.squeeze(0) if self.steps == 1 else spikes.flatten(0, 1)

    def extra_repr(self) -> str:
        """Show T and the role in ``print(network)``."""
        return f"steps={self.steps}" + (", encoder" if self.encoder else "")


def positive_percentile(values: Tensor, percentile: float) -> float | None:
    """Return the percentile of ``values``; where that is not positive, the percentile of the positive ones; else None.

    The fallback keeps a layer alive of whose pre-activations fewer than ``100 - percentile`` per cent are positive.
    """
    flat = values.detach().reshape(-1).float()
    for candidates in (flat, flat[flat > 0]):
        if candidates.numel():
            rank = max(1, round(percentile / 100 * candidates.numel()))
            value = float(torch.kthvalue(candidates, rank).values)
            if value > 0:
                return value
    return None
