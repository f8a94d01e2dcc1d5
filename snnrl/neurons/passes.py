"""The scan of :mod:`snnrl.neurons.functional` and its gradients in few passes over memory, one for each operation."""

import torch
from torch import Tensor

from snnrl.neurons.surrogate import through_triangle


def scan(
    current: Tensor, potential: Tensor | None, threshold: Tensor, leak: Tensor, steps: int, keep_potential: bool
) -> tuple[Tensor, Tensor | None]:
    """Return spikes ``(T, B, ...)`` and, if it is to be kept, M_T."""
    v, decay = float(threshold), float(leak)
    # one buffer for U_t and then M_t, which stays in the cache; the memory format is that of the current
    membrane, before = torch.empty_like(current[0]), potential
    spikes = repeated(membrane, steps)
    for t, (now, spike) in enumerate(zip(current.expand_as(spikes), spikes, strict=True), 1):
        integrated = _integrate(now, before, decay, out=membrane)
        torch.gt(integrated, v, out=spike)
        if t < steps or keep_potential:
            before = torch.sub(integrated, spike, alpha=v, out=membrane)
    return spikes, membrane if keep_potential else None


def gradients(
    grad_spikes: Tensor, current: Tensor, potential: Tensor | None, threshold: Tensor, leak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/dI of the shape of ``current``, dL/dleak and -threshold dL/dthreshold, for a surrogate of height 1."""
    v, decay = float(threshold), float(leak)
    row, steps = torch.empty_like(current[0]), len(grad_spikes)
    d = repeated(row, steps)  # holds U_t, then d_t
    membranes = repeated(row, steps - 1)
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
            grad_leak += inner(d[t], membranes[t - 1])
    grad_current = d if len(current) > 1 else _sum_over_time(d)
    minus_grad_v = inner(grad_current, current)
    if potential is not None:
        carried = inner(d[0], potential)
        grad_leak += carried
        minus_grad_v = minus_grad_v + decay * carried
    return grad_current, grad_leak, minus_grad_v


def repeated(row: Tensor, steps: int) -> Tensor:
    """Return an empty tensor of so many rows, each in the memory format of ``row``."""
    return row.new_empty_strided((steps, *row.shape), (row.numel(), *row.stride()))


def _integrate(now: Tensor, before: Tensor | None, decay: float, *, out: Tensor) -> Tensor:
    """Return U_t = leak * M_{t-1} + I_t, written to ``out``; without M_{t-1} it is I_t itself."""
    return now if before is None else torch.add(now, before, alpha=decay, out=out)


def _sum_over_time(a: Tensor) -> Tensor:
    """Sum over the leading axis, kept as one entry: several times as fast as torch's reduction over it."""
    total = a[:1].clone()
    for later in a[1:]:
        total[0].add_(later)
    return total


def inner(a: Tensor, b: Tensor) -> Tensor:
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
