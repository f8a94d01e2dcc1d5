"""Surrogate gradient of the spike, the derivative that stands in for the step function's."""

import torch
from torch import Tensor

GAMMA = 0.3
"""Height of the surrogate (arXiv 2110.05929, Eq. 12; DIET-SNN uses the same value)."""


def linear_surrogate(potential: Tensor, threshold: float, gamma: float = GAMMA) -> Tensor:
    """Return do/dU = gamma * max(0, 1 - |z|) / threshold with z = U / threshold - 1, same shape as ``potential``.

    Source: arXiv 2110.05929, Eqs. 3 and 12, the surrogate being defined on the normalised potential z.
    """
    return through_triangle(torch.ones_like(potential), potential, threshold).mul_(gamma / threshold)


def through_triangle(grad: Tensor, potential: Tensor, threshold: float, *, out: Tensor | None = None) -> Tensor:
    """Return grad * max(0, 1 - |z|), the gradient through a surrogate of height 1, same shape as ``potential``."""
    # grad - grad * |U - v| / v, the distance being at most v: on one new tensor, in as few passes as torch has
    distance = torch.sub(potential, threshold, out=out).abs_().clamp_(max=threshold)
    return torch.addcmul(grad, grad, distance, value=-1 / threshold, out=distance)
