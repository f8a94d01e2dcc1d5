"""The scan of :mod:`snnrl.neurons.functional` and its gradients, each as one compiled kernel (torch.compile).

What an element is at all timesteps stays in registers, where :mod:`snnrl.neurons.passes` goes through memory for every
operation. Entries are taken in the order of memory, so that one kernel serves all layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from snnrl.errors import UserError
from snnrl.files import first_line
from snnrl.neurons.passes import repeated

MOST_KERNELS = 64
"""Of one function, where torch gives up after eight: T, whether the current changes, and whether M_0 is given."""

_USED = [False]


def enabled() -> bool:
    """Say whether scans are to run compiled now."""
    return _USED[-1]


@contextmanager
def compiled_scans(wanted: bool = True) -> Iterator[None]:
    """Let scans that begin in this context run compiled if ``wanted``, their gradients too.

    Each T, and a first layer whose current is the same at every step, takes a compilation of its own.
    """
    _USED.append(wanted)
    try:
        with torch._dynamo.config.patch(recompile_limit=MOST_KERNELS) if wanted else nullcontext():
            yield
    finally:
        _USED.pop()


def check_compiles(device: torch.device) -> None:
    """Compile a small scan.

    Raises:
        UserError: nothing can be compiled for the device on this machine.
    """
    try:
        zeros = torch.zeros(2, 8, device=device)
        scan(zeros, None, zeros[0, 0], zeros[0, 0], 2, False)
    except RuntimeError as error:
        raise UserError(
            f"neurons cannot be compiled for {device} here ({first_line(error)}): leave compile off, or install what "
            "torch.compile needs, such as a C++ compiler"
        ) from error


def scan(
    current: Tensor, potential: Tensor | None, threshold: Tensor, leak: Tensor, steps: int, keep_potential: bool
) -> tuple[Tensor, Tensor | None]:
    """Return spikes ``(T, B, ...)`` and, if it is to be kept, M_T."""
    row = torch.empty_like(current[0])
    before = None if potential is None else _flat(potential[None], row)[0]
    spikes, last = _kernel(_scan)(_flat(current, row), before, threshold, leak, steps)
    return _shaped(spikes, row), _shaped(last[None], row)[0] if keep_potential else None


def gradients(
    grad_spikes: Tensor, current: Tensor, potential: Tensor | None, threshold: Tensor, leak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dL/dI of the shape of ``current``, dL/dleak and -threshold dL/dthreshold, for a surrogate of height 1."""
    row = torch.empty_like(current[0])
    before = None if potential is None else _flat(potential[None], row)[0]
    d, grad_leak, minus_grad_v = _kernel(_gradients)(
        _flat(grad_spikes, row), _flat(current, row), before, threshold, leak
    )
    return _shaped(d, row), grad_leak, minus_grad_v


def _scan(current: Tensor, before: Tensor | None, threshold: Tensor, leak: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    spikes = []
    for now in current.expand(steps, -1).unbind():
        integrated = now if before is None else now + leak * before
        spikes.append((integrated > threshold).to(current.dtype))
        before = integrated - threshold * spikes[-1]
    assert before is not None
    return torch.stack(spikes), before


def _gradients(
    grad_spikes: Tensor, current: Tensor, potential: Tensor | None, threshold: Tensor, leak: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    befores, integrated, before = [], [], potential
    for now in current.expand_as(grad_spikes).unbind():
        befores.append(before)
        integrated.append(now if before is None else now + leak * before)
        spike = (integrated[-1] > threshold).to(current.dtype)
        before = integrated[-1] - threshold * spike
    rows: list[Tensor] = []
    kind = torch.promote_types(current.dtype, torch.float32)
    grad_leak = torch.zeros((), device=current.device, dtype=kind)
    for grad, potential_t, before in reversed(list(zip(grad_spikes.unbind(), integrated, befores, strict=True))):
        d = grad * (1 - (potential_t / threshold - 1).abs()).clamp(min=0)
        rows.append(d if not rows else d + leak * rows[-1])
        if before is not None:
            grad_leak = grad_leak + torch.sum(rows[-1] * before, dtype=kind)
    d = torch.stack(rows[::-1])
    if len(current) == 1:
        d = d.sum(0, keepdim=True)
    minus_grad_v = torch.sum(d * current, dtype=kind)
    if potential is not None:
        minus_grad_v = minus_grad_v + leak * torch.sum(rows[-1] * potential, dtype=kind)
    return d, grad_leak, minus_grad_v


@cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch's compiler takes a second to import: not before it is needed
    return torch.compile(function, dynamic=True)


def _flat(rows: Tensor, row: Tensor) -> Tensor:
    """Return ``(T, N)``: the entries of rows in the order in which ``row``, which is dense, has them in memory."""
    if rows.stride() != (row.numel(), *row.stride()):
        rows = repeated(row, len(rows)).copy_(rows)
    # a tensor of its own on the same storage: for a view the compiler would look at what it is a view of
    at = rows.untyped_storage(), rows.storage_offset(), (len(rows), row.numel()), (row.numel(), 1)
    return rows.new_empty(0).set_(*at)


def _shaped(flat: Tensor, row: Tensor) -> Tensor:
    """Return flat rows in the shape and memory format of ``row``."""
    return flat.as_strided((len(flat), *row.shape), (row.numel(), *row.stride()))
