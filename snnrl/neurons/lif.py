"""Leaky integrate-and-fire neurons with a trainable threshold and leak per layer (DIET-SNN; arXiv 2110.05929)."""

import torch
from torch import Tensor, nn

from snnrl.neurons.functional import Scan, fire, lif_scan
from snnrl.neurons.neuron import SpikingNeuron, positive_percentile

SMALLEST_THRESHOLD = 1e-3
"""Thresholds are kept above this: at zero the surrogate's width, which is the threshold, would vanish."""


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire with soft reset; see :mod:`snnrl.neurons.functional` for the equations.

    ``threshold`` (> 0) and ``leak`` (<= 1; 1 means no leak) are one trainable number each for the whole layer.
    """

    def __init__(self, steps: int, threshold: float = 1.0, leak: float = 1.0, *, encoder: bool = False) -> None:
        super().__init__(steps, encoder=encoder)
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))
        self.leak = nn.Parameter(torch.tensor(float(leak)))

    def scan(self, current: Tensor) -> Scan:
        """Integrate, fire and reset for ``steps`` steps over ``(T or 1, B, ...)``."""
        return lif_scan(
            current, self.threshold, self.leak, self.steps, self.potential, keep_potential=self.keep_potential
        )

    def fire(self, current: Tensor) -> Tensor:
        """Compare with the threshold."""
        return fire(current, self.threshold)

    @torch.no_grad()
    def calibrate(self, current: Tensor, percentile: float, *, lower_only: bool = False) -> bool:
        """Set the threshold to the percentile of the pre-activations (arXiv 2110.05929, Sec. 3: the 90th)."""
        value = positive_percentile(current, percentile)
        if lower_only:
            value = min(self.spike_value, self.spike_value if value is None else value)
        self.threshold.fill_(1.0 if value is None else max(value, SMALLEST_THRESHOLD))
        return value is not None

    @property
    def spike_value(self) -> float:
        """The threshold: the soft reset takes this much off the potential."""
        return float(self.threshold.detach())

    @property
    def level(self) -> Tensor:
        """The number that follows the threshold."""
        threshold = self.threshold.detach()
        return torch.nextafter(threshold, torch.full_like(threshold, torch.inf))

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp the leak to at most 1 and keep the threshold positive."""
        self.leak.clamp_(max=1.0)
        self.threshold.clamp_(min=SMALLEST_THRESHOLD)


class IF(LIF):
    """Integrate-and-fire: the leak is fixed at 1, as in the RL networks of the code of arXiv 2110.05929."""

    leaks = False

    def __init__(self, steps: int, threshold: float = 1.0, *, encoder: bool = False) -> None:
        super().__init__(steps, threshold, encoder=encoder)
        del self.leak  # from the parameters: it is neither trained nor stored
        self.register_buffer("leak", torch.ones(()), persistent=False)
