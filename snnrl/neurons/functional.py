"""Leaky integrate-and-fire as pure functions: one scan over a leading time axis, with its gradient by hand.

Equations (One Timestep is All You Need, arXiv 2110.05929, Algorithm 2 and Eqs. 2-3, 12-15), t = 1..T::

    U_t = leak * M_{t-1} + I_t           potential after integration, M_0 = 0 unless given
    z_t = U_t / threshold - 1
    o_t = 1[z_t > 0]                     spike, exactly 0 or 1
    M_t = U_t - threshold * o_t          soft reset

    do/dz = gamma * max(0, 1 - |z|)      linear surrogate, the only approximation in the gradient
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnrl.neurons import compiled, passes
from snnrl.neurons.passes import inner
from snnrl.neurons.surrogate import GAMMA, through_triangle


class Scan(NamedTuple):
    """What a scan returns: spikes ``(T, B, ...)``, and if asked for, M_T ``(B, ...)``."""

    spikes: Tensor
    potential: Tensor | None


def lif_scan(
    current: Tensor,
    threshold: Tensor,
    leak: Tensor,
    steps: int,
    potential: Tensor | None = None,
    *,
    gamma: float = GAMMA,
    keep_potential: bool = False,
) -> Scan:
    """Run a layer of leaky integrate-and-fire neurons for ``steps`` timesteps.

    Shapes: ``current`` is ``(T, B, ...)`` with ``T == steps``, or ``(1, B, ...)``: the same current at every step, as
    in direct encoding; ``threshold`` and ``leak`` are 0-dim and of any floating type; ``potential`` is ``(B, ...)``,
    the potential M_0 carried over from an earlier decision. Returns a :class:`Scan`; ``keep_potential`` asks for
    its optional part. At one step from a zero potential this is a comparison: no loop and no state tensor.
    Gradients flow to ``current``, ``threshold`` and ``leak``; a carried potential is a constant.

    Raises:
        ValueError: ``current`` has neither one nor ``steps`` leading entries, or ``potential`` another shape.
    """
    if current.shape[0] not in (1, steps):
        raise ValueError(f"current has {current.shape[0]} time steps, expected 1 or {steps}")
    if potential is not None and potential.shape != current.shape[1:]:
        raise ValueError(f"potential has shape {tuple(potential.shape)}, expected {tuple(current.shape[1:])}")
    if steps == 1 and potential is None and not keep_potential:
        return Scan(fire(current, threshold, gamma), None)
    carried = None if potential is None else potential.detach()
    arguments = (current, threshold, leak, carried, steps, gamma, keep_potential)
    spikes, last = _LIFScan.apply(*arguments)  # type: ignore[no-untyped-call]
    return Scan(spikes, last if keep_potential else None)


def fire(current: Tensor, threshold: Tensor, gamma: float = GAMMA) -> Tensor:
    """Return the spikes of one timestep from a zero potential, 1[current > threshold], of the shape of ``current``."""
    if torch.is_grad_enabled():
        return _Fire.apply(current, threshold, gamma)  # type: ignore[no-any-return, no-untyped-call]
    return _compare(current, threshold)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(current, threshold)
        ctx.gamma = gamma
        return _compare(current, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        current, threshold = ctx.saved_tensors
        v = float(threshold)
        grad_current = through_triangle(grad, current, v).mul_(ctx.gamma / v)
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            grad_threshold = (inner(grad_current, current) / -v).to(threshold.dtype)
        return grad_current, grad_threshold, None


def _compare(current: Tensor, threshold: Tensor) -> Tensor:
    return torch.gt(current, threshold, out=torch.empty_like(current))


class _LIFScan(torch.autograd.Function):
    """T steps, keeping nothing but the input: the backward integrates and fires again, passes instead of storage."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        threshold: Tensor,
        leak: Tensor,
        potential: Tensor | None,
        steps: int,
        gamma: float,
        keep_potential: bool,
    ) -> Any:
        way = compiled if compiled.enabled() else passes
        v, decay = threshold.to(current), leak.to(current)
        spikes, last = way.scan(current, potential, v, decay, steps, keep_potential)
        ctx.save_for_backward(current, threshold, leak, potential)
        ctx.way, ctx.gamma = way, gamma
        if last is not None:
            ctx.mark_non_differentiable(last)
        return spikes, last

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, _last: Any) -> Any:
        """With d_t = dL/dU_t: d_t = g_t * do_t/dU_t + leak * d_{t+1}, as dM_t/dU_t = 1 (the reset's mask is constant).

        dL/dI_t = d_t,  dL/dleak = sum_t d_t M_{t-1}. Scaling currents, carried potential and threshold by one factor
        changes no spike, so by Euler's theorem on homogeneous functions
        threshold * dL/dthreshold = -sum_t d_t I_t - leak * d_1 M_0.
        """
        current, threshold, leak, potential = ctx.saved_tensors
        v, decay = threshold.to(current), leak.to(current)
        d, grad_leak, minus_grad_v = ctx.way.gradients(grad_spikes, current, potential, v, decay)
        height = ctx.gamma / float(v)  # of the surrogate, a factor left to the end
        grad_v = (minus_grad_v * (-height / float(v))).to(threshold.dtype)
        return d.mul_(height), grad_v, (grad_leak * height).to(leak.dtype), *[None] * 4


def sum_rows(rows: Tensor) -> Tensor:
    """Return the float32 sum over the leading axis, without gradient; exact for whole numbers up to 2**24."""
    # into the memory format of a row: ten times as fast as into another one
    total = torch.empty_like(rows[0], dtype=torch.float32, requires_grad=False)
    return torch.sum(rows.detach(), 0, dtype=torch.float32, out=total)
