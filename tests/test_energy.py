"""Operations counted against explicit loops, energy against hand-computed values and the paper's own figures."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrl.energy import (
    ACCUMULATE_PJ,
    MULTIPLY_ACCUMULATE_PJ,
    LayerOperations,
    count_operations,
    energy_ratio,
    ordinary_energy,
    spiking_energy,
)
from snnrl.networks import fill_slots, mlp, nature_cnn, spike_counts
from snnrl.neurons import sum_over_time


def loops(layer: nn.Conv2d, size: tuple[int, int]) -> int:
    """Multiply-accumulates of a convolution, padding included, one by one."""
    count = 0
    extent = [
        (size[d] + 2 * layer.padding[d] - layer.dilation[d] * (layer.kernel_size[d] - 1) - 1) // layer.stride[d] + 1
        for d in (0, 1)
    ]
    for output in range(layer.out_channels):
        group = output // (layer.out_channels // layer.groups)
        for _ in itertools.product(range(extent[0]), range(extent[1])):
            for channel in range(layer.in_channels):
                if channel // (layer.in_channels // layer.groups) == group:
                    count += layer.kernel_size[0] * layer.kernel_size[1]
    return count


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, (2, 3), stride=(2, 1)),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Conv2d(2, 4, 2, dilation=2, bias=False),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
    ids=str,
)
def test_convolutions(layer: nn.Conv2d) -> None:
    inputs = torch.rand(3, layer.in_channels, 7, 6)
    (counted,) = count_operations(nn.Sequential(layer), inputs, 3)
    assert counted == LayerOperations("0", loops(layer, (7, 6)), 1, None)


def test_linear_layers() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2, bias=False))
    assert [c.macs for c in count_operations(network, torch.rand(4, 5), 4)] == [35, 14]
    (repeated,) = count_operations(nn.Sequential(nn.Linear(5, 7)), torch.rand(4, 3, 5), 4)
    assert repeated.macs == 3 * 35


def test_hooks_are_removed_even_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(5, 7))
    with pytest.raises(RuntimeError):
        count_operations(network, torch.rand(4, 6), 4)
    assert not network[0]._forward_hooks


class Repeated(nn.Module):
    """The same real-valued input at every one of ``steps`` steps, then spikes in a known pattern."""

    def __init__(self, steps: int, spikes: Tensor) -> None:
        super().__init__()
        self.steps, self.spikes = steps, spikes
        self.dense, self.sparse = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        self.dense(inputs.repeat(self.steps, 1))
        outputs: Tensor = self.sparse(self.spikes)
        return outputs


def test_steps_and_rates() -> None:
    spikes = torch.zeros(3 * 2, 4)
    spikes[0, 0] = spikes[1, 2] = spikes[5, 1] = 1.0
    dense, sparse = count_operations(Repeated(3, spikes), torch.rand(2, 3), 2)
    assert dense == LayerOperations("dense", 12, 3, None)
    assert sparse == LayerOperations("sparse", 8, 3, 3 / (2 * 4))
    dense_pj, sparse_pj = 12 * 3 * 4.6, 8 * 3 / 8 * 0.9
    assert spiking_energy((dense, sparse)) == pytest.approx(dense_pj + sparse_pj)
    assert ordinary_energy((dense, sparse)) == pytest.approx((12 + 8) * 4.6)
    assert energy_ratio((dense, sparse)) == pytest.approx(20 * 4.6 / (dense_pj + sparse_pj))


def test_values_that_are_no_spikes_are_multiplied() -> None:
    (layer,) = count_operations(nn.Sequential(nn.Linear(2, 1)), torch.tensor([[0.0, 0.5]]), 1)
    assert layer.input_rate is None
    (layer,) = count_operations(nn.Sequential(nn.Linear(2, 1)), torch.tensor([[0.0, 1.0]]), 1)
    assert layer.input_rate == 0.5


def test_rates_are_those_that_the_neurons_count() -> None:
    torch.manual_seed(0)
    network = mlp(6, [16, 8], 3, nn.ReLU)
    fill_slots(network, "lif", 4, encoder=True)
    inputs = 3 * torch.randn(32, 6)
    with spike_counts(network) as counts:
        sum_over_time(network(inputs), 4)
    first, *others = count_operations(network, inputs, 32)
    assert (first.macs, first.passes, first.input_rate) == (96, 1, None)
    assert [layer.input_rate for layer in others] == pytest.approx([count.rate for count in counts.values()])
    assert others[0].input_rate > 0


def test_nothing_happens() -> None:
    silent = (LayerOperations("a", 100, 1, 0.0), LayerOperations("b", 10, 1, 0.0))
    assert energy_ratio(silent) == pytest.approx(110 * 4.6 / 0.9)


def test_costs() -> None:
    assert (MULTIPLY_ACCUMULATE_PJ, ACCUMULATE_PJ) == (4.6, 0.9)


def nature(frames: int, rate: float) -> tuple[LayerOperations, ...]:
    """The Nature network on 84x84 images with 6 actions, every input but the image spiking at ``rate``."""
    network = nn.Sequential(nature_cnn((frames, 84, 84), 512), nn.Linear(512, 6))
    dense = count_operations(network, torch.rand(1, frames, 84, 84), 1)
    return dense[0], *(layer._replace(input_rate=rate) for layer in dense[1:])


@pytest.mark.parametrize(("rate", "published", "ours"), [(0.08, 7.55, 7.53), (0.42, 5.22, 5.23)])
def test_the_papers_pong_agent(rate: float, published: float, ours: float) -> None:
    """arXiv 2110.05929 at T=1 and T=5, with one frame as input; its spike rates are given to two decimals."""
    layers = nature(1, rate)
    macs = [layer.macs for layer in layers]
    assert macs == [20 * 20 * 32 * 64, 9 * 9 * 64 * 32 * 16, 7 * 7 * 64 * 64 * 9, 3136 * 512, 512 * 6]
    assert macs[0] / sum(macs) == pytest.approx(0.119, abs=5e-4)
    assert round(energy_ratio(layers), 2) == ours
    assert energy_ratio(nature(1, rate + 0.005)) < published < energy_ratio(nature(1, rate - 0.005))


def test_four_frames_cap_the_ratio() -> None:
    assert round(energy_ratio(nature(4, 0.0)), 2) == 2.85
    rates = np.linspace(0, 1, 11)
    ratios = [energy_ratio(nature(4, float(rate))) for rate in rates]
    assert ratios == sorted(ratios, reverse=True)
