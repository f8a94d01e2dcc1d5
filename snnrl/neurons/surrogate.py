"""Surrogate gradient of the spike, the derivative that stands in for the step function's."""

import torch
from torch import Tensor

GAMMA = 0.3
"""Height of the surrogate (arXiv 2110.05929, Eq. 12; DIET-SNN uses the same value)."""


def linear_surrogate(potential: Tensor, threshold: float, gamma: float = GAMMA) -> Tensor:
    """Return do/dU = gamma * max(0, 1 - |z|) / threshold with z = U / threshold - 1, same shape as ``potential``.

    Source: arXiv 2110.05929, Eqs. 3 and 12, the surrogate being defined on the normalised potential z.
    """
    height = gamma / threshold
    # height - |height * (1 - U / v)|, clamped at zero: in place on one new tensor, as few passes as torch has
    return torch.rsub(potential, height, alpha=height / threshold).abs_().clamp_(max=height).neg_().add_(height)
