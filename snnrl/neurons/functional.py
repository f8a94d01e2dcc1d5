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
            grad_threshold = (_inner(grad_current, current) / -v).to(threshold.dtype)
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
        v, decay = float(threshold.to(current.dtype)), float(leak.to(current.dtype))
        # one buffer for U_t and then M_t, which stays in the cache; the memory format is that of the current
        membrane, before = torch.empty_like(current[0]), potential
        spikes = _repeated(membrane, steps)
        for t, (now, spike) in enumerate(zip(current.expand_as(spikes), spikes, strict=True), 1):
            integrated = _integrate(now, before, decay, out=membrane)
            torch.gt(integrated, v, out=spike)
            if t < steps or keep_potential:
                before = torch.sub(integrated, spike, alpha=v, out=membrane)
        ctx.save_for_backward(current, threshold, leak, potential)
        ctx.scalars = (v, decay, gamma)
        last = membrane if keep_potential else None
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
        v, decay, gamma = ctx.scalars
        row, steps = torch.empty_like(current[0]), len(grad_spikes)
        d = _repeated(row, steps)  # holds U_t, then d_t without the surrogate's height, a factor left to the end
        membranes = _repeated(row, steps - 1)
        integrated, before = [], potential
        for t, now in enumerate(current.expand_as(d)):
            integrated.append(_integrate(now, before, decay, out=d[t]))
            if t < steps - 1:
                spike = torch.gt(integrated[t], v, out=membranes[t])
                before = torch.sub(integrated[t], spike, alpha=v, out=membranes[t])
        grad_leak = torch.zeros((), device=d.device, dtype=torch.promote_types(d.dtype, torch.float32))
        for t in reversed(range(steps)):
            through_triangle(grad_spikes[t], integrated[t], v, out=d[t])
            if t < steps - 1:
                d[t].add_(d[t + 1], alpha=decay)
            if t > 0:
                grad_leak += _inner(d[t], membranes[t - 1])
        grad_current = d if len(current) > 1 else _sum_over_time(d)
        minus_grad_v = _inner(grad_current, current)
        if potential is not None:
            carried = _inner(d[0], potential)
            grad_leak += carried
            minus_grad_v = minus_grad_v + decay * carried
        height = gamma / v
        grad_v = (minus_grad_v * (-height / v)).to(threshold.dtype)
        return grad_current.mul_(height), grad_v, (grad_leak * height).to(leak.dtype), *[None] * 4


def _repeated(row: Tensor, steps: int) -> Tensor:
    """Return an empty tensor of so many rows, each in the memory format of ``row``."""
    return row.new_empty_strided((steps, *row.shape), (row.numel(), *row.stride()))


def _integrate(now: Tensor, before: Tensor | None, decay: float, *, out: Tensor) -> Tensor:
    """Return U_t = leak * M_{t-1} + I_t, written to ``out``; without M_{t-1} it is I_t itself."""
    return now if before is None else torch.add(now, before, alpha=decay, out=out)


def sum_rows(rows: Tensor) -> Tensor:
    """Return the float32 sum over the leading axis, without gradient; exact for whole numbers up to 2**24."""
    # into the memory format of a row: ten times as fast as into another one
    total = torch.empty_like(rows[0], dtype=torch.float32, requires_grad=False)
    return torch.sum(rows.detach(), 0, dtype=torch.float32, out=total)


def _sum_over_time(a: Tensor) -> Tensor:
    """Sum over the leading axis, kept as one entry: several times as fast as torch's reduction over it."""
    total = a[:1].clone()
    for later in a[1:]:
        total[0].add_(later)
    return total


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the elementwise product, accumulated in at least float32; ``a`` is dense."""
    if a.stride() != b.stride() and any(
        n > 1 for n, i, j in zip(a.shape, a.stride(), b.stride(), strict=True) if i != j
    ):
        return torch.sum(a * b, dtype=torch.promote_types(a.dtype, torch.float32))
    # both are dense: their entries in the order of memory, whatever the memory format, are views, never copies
    flat_a, flat_b = (x.as_strided((x.numel(),), (1,)) for x in (a, b))
    if a.dtype in (torch.float32, torch.float64):
        return torch.dot(flat_a, flat_b)
    # each row is summed in float32 as well, and only then rounded
    return (flat_a * flat_b).view(a.shape[:2].numel(), -1).sum(1).sum(dtype=torch.float32)
