"""Binary activations with a straight-through gradient: the rival of spiking neurons at one timestep."""

from typing import Any

import torch
from torch import Tensor

from snnrl.errors import UserError
from snnrl.neurons.functional import Scan
from snnrl.neurons.neuron import SpikingNeuron


class Binary(SpikingNeuron):
    """The step function 1[I > 0], without threshold, leak or potential: it decides in one timestep.

    The gradient passes unchanged where |I| <= 1, and is zero elsewhere (straight-through estimator: arXiv 1308.3432,
    Sec. 3; the window: arXiv 1602.02830, Eq. 4).
    """

    leaks = False
    one_step = True

    def scan(self, current: Tensor) -> Scan:
        """Refuse: there is no potential that a second timestep could begin with.

        Raises:
            UserError: always.
        """
        raise UserError("binary activations keep no potential: they decide in one timestep, not several")

    def fire(self, current: Tensor) -> Tensor:
        """Compare with zero."""
        return _StraightThrough.apply(current)  # type: ignore[no-any-return, no-untyped-call]

    def calibrate(self, current: Tensor, percentile: float, *, lower_only: bool = False) -> bool:
        """Say whether any current is positive; there is no threshold to set."""
        return bool((current > 0).any())

    @property
    def spike_value(self) -> float:
        """One: there is no threshold that it could stand for."""
        return 1.0

    @property
    def level(self) -> Tensor:
        """The number that follows zero."""
        return torch.nextafter(torch.zeros(()), torch.ones(()))

    def constrain(self) -> None:
        """Do nothing: there are no parameters."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor) -> Tensor:
        ctx.save_for_backward(current)
        return (current > 0).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (current,) = ctx.saved_tensors
        return grad * (current.abs() <= 1)
