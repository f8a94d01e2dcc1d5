"""The readout: output neurons that never fire; their potential after T steps is the answer."""

from torch import Tensor, nn


def sum_over_time(current: Tensor, steps: int) -> Tensor:
    """Return the potential of non-firing neurons, U = sum_t I_t, shape ``(T * B, K)`` to ``(B, K)``.

    Source: arXiv 2110.05929, Sec. 3 (the last layer accumulates and does not leak); the sum is not divided by T.
    """
    return current if steps == 1 else current.unflatten(0, (steps, -1)).sum(0)


class ExpandTime(nn.Module):
    """Repeat a real-valued input ``(B, ...)`` at every step, to ``(T * B, ...)``, so that it can meet spikes."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, values: Tensor) -> Tensor:
        """Return ``(T * B, ...)``, time-major."""
        return values if self.steps == 1 else values.expand(self.steps, *values.shape).flatten(0, 1)
