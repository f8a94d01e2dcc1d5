"""Neurons whose firing threshold follows their currents, for training at one timestep (arXiv 2212.10170)."""

from typing import Any

import torch
from torch import Tensor

from snnrl.neurons.functional import Scan
from snnrl.neurons.lif import LIF

HEIGHT = 0.5
"""Of the box that stands in for the spike's derivative, 0 < z <= 2 (code of arXiv 2212.10170)."""
MOMENTUM = 0.1
"""Weight of a batch in the running extremum, as batch-norm has it (code of arXiv 2212.10170)."""


class Hoyer(LIF):
    """Fires where the potential reaches the Hoyer extremum of its layer.

    With the clipping threshold v > 0 (trained, one number), z = U / v and z_c = min(max(z, 0), 1)::

        E = sum z_c^2 / sum z_c      of each map, or of the whole layer behind a linear one; 0 < E <= 1
        o = 1[z >= E]                spike
        do/dz = 0.5 * 1[0 < z <= 2]  box surrogate; E is a constant of the gradient
        U_t = leak * M_{t-1} + I_t,  M_t = U_t - v * E * o_t    several timesteps, soft reset

    While it learns E is that of the batch, else a running mean; a map without positive currents has E = 1.
    ``channels``: how many maps there are, None behind a linear layer. Source: arXiv 2212.10170 and its code.
    """

    def __init__(
        self,
        steps: int,
        threshold: float = 1.0,
        leak: float = 1.0,
        *,
        encoder: bool = False,
        channels: int | None = None,
    ) -> None:
        super().__init__(steps, threshold, leak, encoder=encoder)
        # stable-baselines3 copies what is named running_ to its target network
        self.running_extremum: Tensor
        self.register_buffer("running_extremum", torch.ones(() if channels is None else (channels,)))
        self.measures: list[Tensor] | None = None

    @classmethod
    def behind(cls, channels: int | None, steps: int, *, encoder: bool) -> "Hoyer":
        """Return neurons with a running extremum for each map, or one for a linear layer."""
        return cls(steps, encoder=encoder, channels=channels)

    def fire(self, current: Tensor) -> Tensor:
        """Compare with v * E."""
        return self._fire(current)[0]

    def scan(self, current: Tensor) -> Scan:
        """Integrate, fire and reset for ``steps`` steps over ``(T or 1, B, ...)``."""
        membrane, spikes = self.potential, []
        for now in current.expand(self.steps, *current.shape[1:]):
            integrated = now if membrane is None else now + self.leak * membrane
            fired, level = self._fire(integrated)
            membrane = integrated - level * fired.detach()
            spikes.append(fired)
        return Scan(torch.stack(spikes), None if membrane is None else membrane.detach())

    @property
    def level(self) -> Tensor:
        """v times the running extremum."""
        return self.threshold.detach() * self.running_extremum

    def _fire(self, potential: Tensor) -> tuple[Tensor, Tensor]:
        """Return spikes, and the potential v * E at which neurons fire."""
        if self.training:
            extremum = self.extremum(potential)
            with torch.no_grad():
                self.running_extremum.lerp_(extremum, MOMENTUM)
        else:
            extremum = self.running_extremum
        if self.measures is not None:
            self.measures.append(hoyer_measure(potential, self.threshold) / len(potential))
        level = (self.threshold.detach() * extremum).to(potential.dtype)
        if self._maps:
            level = level.view(-1, 1, 1)
        return _Fire.apply(potential, self.threshold, level), level  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def extremum(self, potential: Tensor) -> Tensor:
        """Return E of a batch of potentials."""
        return hoyer_extremum(potential, self.spike_value, self._maps)

    @property
    def _maps(self) -> bool:
        return self.running_extremum.dim() > 0

    @torch.no_grad()
    def calibrate(self, current: Tensor, percentile: float, *, lower_only: bool = False) -> bool:
        """Set the clipping threshold to the percentile of the pre-activations, and the running extremum to theirs."""
        found = super().calibrate(current, percentile, lower_only=lower_only)
        self.running_extremum.copy_(self.extremum(current))
        return found


class FixedHoyer(Hoyer):
    """Hoyer neurons without their extremum, E = 1: they fire at the trained threshold (ablation)."""

    def extremum(self, potential: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(self.running_extremum)


def hoyer_extremum(potential: Tensor, threshold: float, maps: bool) -> Tensor:
    """Return E = sum z_c^2 / sum z_c of potentials ``(B, C, H, W)``, for each map ``(C,)``; or of all, 0-dim.

    1 where nothing is positive. At E the derivative of the Hoyer measure changes its sign (arXiv 2212.10170).
    """
    clipped = potential.clamp(0, threshold)
    over = [axis for axis in range(potential.dim()) if not maps or axis != 1]
    first = clipped.sum(over, dtype=torch.float32)
    second = (clipped * clipped).sum(over, dtype=torch.float32)
    return torch.where(first > 0, second / (first * threshold).clamp(min=1e-30), 1.0)


def hoyer_measure(potential: Tensor, threshold: Tensor) -> Tensor:
    """Return H = (sum z_c)^2 / sum z_c^2 of a whole layer, 0-dim, with gradients to potential and threshold.

    The same for potentials of any scale; 1 <= H <= their number, 0 if none is positive. Source: arXiv 2212.10170, on
    the clipped potential.
    """
    clipped = torch.minimum(potential.float().relu(), threshold)
    first, second = clipped.sum(), clipped.square().sum()
    return first.square() / second.clamp(min=1e-30)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor, threshold: Tensor, level: Tensor) -> Tensor:
        ctx.save_for_backward(potential, threshold)
        return torch.ge(potential, level, out=torch.empty_like(potential))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        potential, threshold = ctx.saved_tensors
        v = float(threshold)
        inside = (potential > 0).logical_and_(potential <= 2 * v)
        grad_potential = (grad * inside).mul_(HEIGHT / v)
        grad_threshold = -(grad_potential * potential).sum(dtype=torch.float32) / v
        return grad_potential, grad_threshold.to(threshold.dtype), None
