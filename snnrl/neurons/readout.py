"""The readout: output neurons that never fire; their potential after T steps is the answer."""

from typing import TypeVar

from torch import Tensor, nn


def sum_over_time(current: Tensor, steps: int) -> Tensor:
    """Return the potential of non-firing neurons, U = sum_t I_t, shape ``(T * B, K)`` to ``(B, K)``.

    Source: arXiv 2110.05929, Sec. 3 (the last layer accumulates and does not leak); the sum is not divided by T.
    """
    return current if steps == 1 else current.view(steps, -1, *current.shape[1:]).sum(0)


Values = TypeVar("Values", Tensor, int)


class ExpandTime(nn.Module):
    """Repeat a real-valued input ``(B, ...)`` at every step, to ``(T * B, ...)``, so that it can meet spikes.

    A number of rows becomes T times as many, so that spikes can be reshaped by the batch size of the input.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, values: Values) -> Values:
        """Return ``(T * B, ...)``, time-major, or the number of its rows."""
        if self.steps == 1:
            return values
        if isinstance(values, Tensor) and values.dim():
            return values.expand(self.steps, *values.shape).flatten(0, 1)
        return values * self.steps
