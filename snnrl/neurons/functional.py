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

from snnrl.neurons.surrogate import GAMMA, linear_surrogate


class Scan(NamedTuple):
    """What a scan returns: spikes ``(T, B, ...)``, last potential M_T ``(B, ...)`` or None, spike count (0-dim) or None."""

    spikes: Tensor
    potential: Tensor | None
    count: Tensor | None


def lif_scan(
    current: Tensor,
    threshold: Tensor,
    leak: Tensor,
    steps: int,
    potential: Tensor | None = None,
    *,
    gamma: float = GAMMA,
    keep_potential: bool = False,
    count: bool = False,
) -> Scan:
    """Run a layer of leaky integrate-and-fire neurons for ``steps`` timesteps.

    Shapes: ``current`` is ``(T, B, ...)`` with ``T == steps``, or ``(1, B, ...)``: the same current at every step, as in
    direct encoding; ``threshold`` and ``leak`` are 0-dim and of any floating type; ``potential`` is ``(B, ...)``, the
    potential M_0 carried over from an earlier decision. Returns a :class:`Scan`; ``keep_potential`` and ``count`` ask
    for its optional parts. At one step from a zero potential this is a comparison: no loop and no state tensor.
    Gradients flow to ``current``, ``threshold`` and ``leak``; a carried potential is a constant.

    Raises:
        ValueError: ``current`` has neither one nor ``steps`` leading entries.
    """
    if current.shape[0] not in (1, steps):
        raise ValueError(f"current has {current.shape[0]} time steps, expected 1 or {steps}")
    if steps == 1 and potential is None and not keep_potential:
        spikes = _Compare.apply(current, threshold, gamma)
        return Scan(spikes, None, spikes.sum(dtype=torch.float32) if count else None)
    carried = None if potential is None else potential.detach()
    spikes, last, counted = _LIFScan.apply(current, threshold, leak, carried, steps, gamma, keep_potential, count)
    return Scan(spikes, last if keep_potential else None, counted if count else None)


class _Compare(torch.autograd.Function):
    """One step from a zero potential: spike iff current > threshold."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(current, threshold)
        ctx.gamma = gamma
        return torch.gt(current, threshold.to(current.dtype), out=torch.empty_like(current))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        current, threshold = ctx.saved_tensors
        v = float(threshold)
        grad_current = linear_surrogate(current, v, ctx.gamma).mul_(grad)
        grad_threshold = None
        if ctx.needs_input_grad[1]:
            # dz/dv = -U / v^2 and grad_current = g * surrogate / v
            grad_threshold = _inner(grad_current, current).div_(-v).to(threshold.dtype)
        return grad_current, grad_threshold, None


class _LIFScan(torch.autograd.Function):
    """T steps; keeps only the potentials U_1..U_T, from which spikes and resets are computed again."""

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
        count: bool,
    ) -> Any:
        v, decay = float(threshold.to(current.dtype)), float(leak.to(current.dtype))
        needs_gradient = any(ctx.needs_input_grad[:3])
        shape = (steps, *current.shape[1:])
        spikes = current.new_empty(shape)
        potentials = current.new_empty(shape if needs_gradient else (1, *shape[1:]))
        membrane = current.new_empty(shape[1:])
        counted = torch.zeros((), device=current.device) if count else None
        for t in range(steps):
            now = current[t if current.shape[0] > 1 else 0]
            u = potentials[t if needs_gradient else 0]
            if t == 0 and potential is None:
                u.copy_(now)
            else:
                torch.add(now, membrane if t else potential, alpha=decay, out=u)
            torch.gt(u, v, out=spikes[t])
            if counted is not None:
                counted += spikes[t].sum(dtype=torch.float32)
            if t < steps - 1 or keep_potential:
                torch.add(u, spikes[t], alpha=-v, out=membrane)
        if needs_gradient:
            # the next layer keeps its input anyway, so saving the spikes costs nothing
            ctx.save_for_backward(potentials, spikes, threshold, leak, potential)
            ctx.scalars = (v, decay, gamma, current.shape[0])
        ctx.mark_non_differentiable(*(x for x in (membrane, counted) if x is not None))
        return spikes, membrane, counted

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, _membrane: Any, _count: Any) -> Any:  # type: ignore[override]
        """With d_t = dL/dU_t: d_t = g_t * do_t/dU_t + leak * d_{t+1}, as dM_t/dU_t = 1 (the reset's mask is constant).

        dL/dI_t = d_t,  dL/dleak = sum_t d_t M_{t-1},
        dL/dv = -sum_t [ g_t * do_t/dU_t * U_t / v  +  leak * d_{t+1} o_t ],  the second term being the soft reset's.
        """
        potentials, spikes, threshold, leak, first = ctx.saved_tensors
        v, decay, gamma, current_steps = ctx.scalars
        steps = potentials.shape[0]
        direct = linear_surrogate(potentials, v, gamma).mul_(grad_spikes)
        grad_v = _inner(direct, potentials) / -v
        grad_leak = torch.zeros_like(grad_v)
        for t in reversed(range(steps - 1)):
            later = direct[t + 1]
            reset = _inner(later, spikes[t])
            grad_v -= decay * reset
            grad_leak += _inner(later, potentials[t]) - v * reset
            direct[t].add_(later, alpha=decay)
        if first is not None:
            grad_leak += _inner(direct[0], first)
        grad_current = direct if current_steps > 1 else direct.sum(0, keepdim=True)
        return grad_current, grad_v.to(threshold.dtype), grad_leak.to(leak.dtype), None, None, None, None, None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the elementwise product, in float32."""
    if a.dtype == torch.float32:
        return torch.dot(a.reshape(-1), b.reshape(-1))
    return torch.sum(a * b, dtype=torch.float32)
