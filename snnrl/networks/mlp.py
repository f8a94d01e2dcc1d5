"""Multi-layer perceptron: hidden layers fc1..fcN with an activation slot each, and a linear head."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from snnrl.networks.layers import block


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    activation: type[nn.Module] = nn.ReLU,
    *,
    bias: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return the network ``(B, inputs) -> (B, outputs)``; without hidden layers it is the head alone.

    ``dropout`` follows every hidden layer.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(hidden, 1):
        parts[f"fc{number}"] = block(nn.Linear(inputs, width, bias=bias), activation=activation)
        if dropout:
            parts[f"dropout{number}"] = nn.Dropout(dropout)
        inputs = width
    parts["head"] = FullPrecisionLinear(inputs, outputs, bias=bias)
    return nn.Sequential(parts)


class FullPrecisionLinear(nn.Linear):
    """A linear layer that autocast leaves in float32: Q-values of actions differ by less than bfloat16 can tell."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(B, outputs)`` in float32."""
        if not torch.is_autocast_enabled(inputs.device.type):
            return super().forward(inputs)
        with torch.autocast(inputs.device.type, enabled=False):
            return super().forward(inputs.float())


class DuelingMLP(nn.Module):
    """Two perceptrons for value and advantage: Q = V + A - mean_a A (Wang et al. 2016, arXiv 1511.06581, Eq. 9)."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.value = mlp(inputs, hidden, 1, activation)
        self.advantage = mlp(inputs, hidden, outputs, activation)

    def forward(self, features: Tensor) -> Tensor:
        """Return Q-values ``(B, outputs)`` for features ``(B, inputs)``."""
        advantage: Tensor = self.advantage(features)
        value: Tensor = self.value(features)
        return value + advantage - advantage.mean(dim=1, keepdim=True)
