"""Neurons whose threshold and decay are constants: the spiking unit of arXiv 2401.10843.

Equations, t = 1..T::

    U_t = I_t + 0.4 * U_{t-1} * (1 - o_{t-1})    potential, U_0 = 0 unless given; hard reset
    o_t = 1[U_t > 0.5]                           spike
    do/dU = 1[|U - 0.5| < 0.5]                   box surrogate; the reset's mask is a constant of the gradient
"""

from typing import Any

import torch
from torch import Tensor

from snnrl.neurons.functional import Scan
from snnrl.neurons.neuron import SpikingNeuron

THRESHOLD = 0.5
"""Potential above which a neuron fires (code of arXiv 2401.10843)."""
DECAY = 0.4
"""Share of the potential that is left a step later (code of arXiv 2401.10843)."""
HALF_WIDTH = 0.5
"""Of the box, as tall as 1, that stands in for the spike's derivative (code of arXiv 2401.10843)."""


def constant_spike(potential: Tensor) -> Tensor:
    """Return 1[U > 0.5] in the shape of ``potential``, with the gradient 1[|U - 0.5| < 0.5]."""
    return _Spike.apply(potential)  # type: ignore[no-any-return, no-untyped-call]


def integrate(current: Tensor, potential: Tensor | None = None) -> Tensor:
    """Return U_t ``(T, B, ...)`` for currents ``(T, B, ...)``, starting from U_0 ``(B, ...)`` or zero."""
    potentials: list[Tensor] = []
    for now in current:
        potential = now if potential is None else now + DECAY * potential * (potential <= THRESHOLD)
        potentials.append(potential)
    return torch.stack(potentials)


class ConstantThreshold(SpikingNeuron):
    """A layer of such neurons; there is nothing to train in it, and nothing that conversion could set."""

    def scan(self, current: Tensor) -> Scan:
        """Integrate, fire and reset for ``steps`` steps over ``(T or 1, B, ...)``."""
        potentials = integrate(current.expand(self.steps, *current.shape[1:]), self.potential)
        return Scan(constant_spike(potentials), potentials[-1].detach())

    def fire(self, current: Tensor) -> Tensor:
        """Compare with 0.5."""
        return constant_spike(current)

    def calibrate(self, current: Tensor, percentile: float, *, lower_only: bool = False) -> bool:
        """Say whether any neuron fires; the threshold stays."""
        return bool((current > THRESHOLD).any())

    @property
    def spike_value(self) -> float:
        """The threshold."""
        return THRESHOLD

    @property
    def level(self) -> Tensor:
        """The number that follows the threshold."""
        return torch.nextafter(torch.tensor(THRESHOLD), torch.ones(()))

    def constrain(self) -> None:
        """Do nothing: there are no parameters."""


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return torch.gt(potential, THRESHOLD, out=torch.empty_like(potential))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (potential,) = ctx.saved_tensors
        return grad * ((potential - THRESHOLD).abs() < HALF_WIDTH)
