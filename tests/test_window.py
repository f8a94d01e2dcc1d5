"""Networks of windows: equations by hand, a slow oracle, sizes, energy, what they learn, what they refuse."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.nn import functional

from snnrl.agents.classifier import Classifier
from snnrl.agents.classifier.agent import Description
from snnrl.agents.classifier.config import ImageRecipe, Training
from snnrl.agents.classifier.training import Epochs
from snnrl.agents.settings import Windows
from snnrl.agents.spiking_dqn import SpikingDQN
from snnrl.agents.spiking_dqn.config import Recipe
from snnrl.agents.spiking_dqn.conversion import convert_agent
from snnrl.cli import main
from snnrl.config import validate
from snnrl.conversion import convert
from snnrl.energy import count_operations, read_costs, tally
from snnrl.envs import make
from snnrl.envs.images import ImageSet, read_images
from snnrl.errors import UserError
from snnrl.networks import (
    WINDOWS,
    SpikingNetwork,
    classifier,
    convolutional,
    fill_slots,
    neurons_of,
    spike_counts,
    spike_rates,
    without_bias,
)
from snnrl.networks.tiling import condense, coverage, cut, neighbours, pad
from snnrl.networks.window import Block, ConvBlock, LSTMBlock, Maps
from snnrl.neurons import WindowNeuron
from snnrl.neurons.window import mean, omega, pass_around, pass_on, projection
from snnrl.pipeline import StageFolder
from worlds import FAST, World, batch_of, same

DATA = Path(__file__).parent / "data" / "cifar10"
DEPTHS, CHANNELS = (2, 2, 6, 2), (48, 96, 192, 384)
TINY: dict[str, Any] = {"width": 0.125, "depths": (2, 1)}
"""Two stages of 6 and 12 channels, with a dilated block."""


def tiny(kind: str, shape: tuple[int, int, int] = (3, 16, 16), **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return convolutional(kind, shape, 0, **TINY | options)


def blocks_of(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


# --- equations -----------------------------------------------------------------------------------------------------


def test_omega_by_hand() -> None:
    a, b = torch.tensor([1.0, 0.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 1.0, 2.0])
    # 2 sin(pi/4), 0, 2 sin(pi/2 cos(pi/4)), and cos(pi/2) = 0
    by_hand = [math.sqrt(2), 0.0, 2 * math.sin(math.pi / 2 * math.sqrt(0.5)), 0.0]
    assert omega(a, b).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert omega(a, b, theta=math.pi / 2)[0] == pytest.approx(2.0)
    assert mean(a, b).tolist() == [0.5, 0.5, 1.5, 0.5]
    assert projection("omega", 0.3)(a, b).tolist() == omega(a, b, 0.3).tolist()
    wide = torch.randn(1000) * 20
    assert omega(wide, wide.flip(0)).abs().max() <= 2
    # the slope at 0 is 2 theta cos(theta b)
    start = torch.zeros(1, requires_grad=True)
    omega(start, torch.ones(1)).backward()
    assert start.grad is not None
    assert float(start.grad) == pytest.approx(math.pi / 2 * math.cos(math.pi / 4))


def test_potentials_handed_from_window_to_window_by_hand() -> None:
    currents = torch.tensor([[1.0, 0.5, 0.0, 1.0]])
    # 1 | 0.4 + 0.5 | 0.36 | 0.144 + 1
    assert pass_on(currents, lambda _, potential: potential)[0].tolist() == pytest.approx([1.0, 0.9, 0.36, 1.144])
    others = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    seen = pass_on(currents, lambda index, potential: mean(others[:, index], potential))
    # 1 | 0.4 * 5.5 + 0.5 | 0.4 * (20 + 2.7) / 2 | 0.4 * (30 + 4.54) / 2 + 1
    assert seen[0].tolist() == pytest.approx([1.0, 2.7, 4.54, 7.908])
    membranes = [torch.tensor([value]) for value in (2.0, 4.0, 6.0, 8.0)]
    # 0.4 * 3 + 1 = 2.2 | 0.4 * 3.1 + 0.5 = 1.74 | 0.4 * 3.87 = 1.548 | 0.4 * 4.774 + 1
    around = pass_around(currents, membranes, mean)
    assert around[0].tolist() == pytest.approx([2.2, 1.74, 1.548, 2.9096])


def test_spikes_and_their_gradient() -> None:
    neuron = WindowNeuron(handed=3)
    potential = torch.tensor([[-0.1, 0.0, 0.1], [0.5, 0.51, 0.9], [1.0, 1.1, 3.0], [0.4, 0.6, -3.0]]).requires_grad_()
    spikes = neuron(potential.unsqueeze(0))
    assert spikes.tolist() == [[[0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 1, 0]]]
    (spikes * 2).sum().backward()
    assert potential.grad is not None
    assert potential.grad.tolist() == [[0, 0, 2], [2, 2, 2], [0, 0, 0], [2, 2, 0]]


# --- windows -------------------------------------------------------------------------------------------------------


def test_windows_by_hand() -> None:
    maps = torch.arange(16.0).view(1, 4, 4, 1)
    plain = cut(maps, dilated=False)
    assert plain.shape == (1, 4, 1, 2, 2)
    assert plain.flatten(2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]
    wide = cut(maps, dilated=True)
    assert wide.shape == (1, 4, 1, 3, 3)
    assert wide[0, 0].flatten().tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert wide[0, 3].flatten().tolist() == [5, 6, 7, 9, 10, 11, 13, 14, 15]


@pytest.mark.parametrize("dilated", [False, True])
def test_maps_come_together_again(dilated: bool) -> None:
    maps = torch.randn(2, 8, 12, 3)
    torch.testing.assert_close(condense(cut(maps, dilated), dilated), maps)


def test_the_weights_of_overlaps() -> None:
    """One window at a time, all ones: its weights are 1, 1/2 and 1/4, and the four add up to 1."""
    seen = []
    for window in range(4):
        windows = torch.zeros(1, 4, 1, 3, 3)
        windows[:, window] = 1
        seen.append(condense(windows, dilated=True)[0, :, :, 0])
    assert seen[0].tolist() == [[1, 0.5, 0.5, 0], [0.5, 0.25, 0.25, 0], [0.5, 0.25, 0.25, 0], [0, 0, 0, 0]]
    assert torch.equal(seen[3], seen[0].flip(0, 1))
    assert torch.equal(sum(seen, torch.zeros(4, 4)), torch.ones(4, 4))
    assert coverage(4, 4, dilated=True)[..., 0].tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
    assert coverage(4, 4, dilated=False).unique().tolist() == [1]


def test_neighbours_and_padding_by_hand() -> None:
    maps = torch.arange(16.0).view(1, 4, 4, 1)
    assert neighbours(maps)[0].tolist() == [
        [[0, 1, 4, 5], [2, 3, 6, 7]],
        [[8, 9, 12, 13], [10, 11, 14, 15]],
    ]
    padded = pad(torch.ones(1, 5, 8, 2), 4)
    assert padded.shape == (1, 8, 8, 2)
    assert padded[:, :5].all()
    assert not padded[:, 5:].any()


# --- blocks against a slow oracle ----------------------------------------------------------------------------------


def crops(maps: Tensor, dilated: bool) -> list[Tensor]:
    """Windows of maps ``(C, H, W)``, by indices."""
    _, height, width = maps.shape
    h, w = (3 * height // 4, 3 * width // 4) if dilated else (height // 2, width // 2)
    starts = [(0, 0), (0, width - w), (height - h, 0), (height - h, width - w)]
    return [maps[:, top : top + h, left : left + w] for top, left in starts]


def averaged(windows: list[Tensor], like: Tensor, dilated: bool) -> Tensor:
    """Every place the mean of the windows that see it, ``(C, H, W)``, place by place."""
    _, height, width = like.shape
    total, seen = torch.zeros(len(windows[0]), height, width), torch.zeros(height, width)
    rows, columns = (torch.arange(size) for size in (height, width))
    for window, row, column in zip(
        windows,
        crops(rows.view(1, -1, 1).expand(1, height, width), dilated),
        crops(columns.view(1, 1, -1).expand(1, height, width), dilated),
        strict=True,
    ):
        for i, j in np.ndindex(*window.shape[1:]):
            total[:, row[0, i, j], column[0, i, j]] += window[:, i, j]
            seen[row[0, i, j], column[0, i, j]] += 1
    return total / seen


def project(a: Tensor, b: Tensor) -> Tensor:
    return 2 * torch.sin(math.pi / 4 * a * torch.cos(math.pi / 4 * b))


def convolved(weights: nn.Conv2d, window: Tensor) -> Tensor:
    return functional.conv2d(window[None], weights.weight, weights.bias, padding=1)[0]


def slow_conv(block: ConvBlock, maps: Tensor) -> list[Tensor]:
    m1 = m2 = None
    sent = []
    for window in crops(maps, block.dilated):
        old1, old2 = m1, m2
        m1 = convolved(block.conv1["weights"], window) + (0 if old1 is None else 0.4 * old1)
        current = convolved(block.conv2["weights"], (m1 > 0.5).float())
        m2 = current if old1 is None or old2 is None else current + 0.4 * project(old1, old2)
        sent.append((m2 > 0.5).float())
    return sent


def slow_lstm(block: LSTMBlock, maps: Tensor, membranes: Tensor) -> tuple[list[Tensor], Tensor]:
    lstm = block.lstm["weights"].lstm
    currents = []
    for window in crops(maps, block.dilated):
        channels, height, width = window.shape
        answer = lstm(window.permute(1, 2, 0).reshape(1, height * width, channels))[0]
        currents.append(answer.view(height, width, 2 * channels).permute(2, 0, 1))
    before = crops(membranes, block.dilated)
    first = currents[0] + 0.4 * project(before[0], before[1])
    second = currents[1] + 0.4 * project(first, before[1])
    third = currents[2] + 0.4 * project(before[2], second)
    fourth = currents[3] + 0.4 * project(before[3], third)
    potentials = [first, second, third, fourth]
    return [(m > 0.5).float() for m in potentials], averaged(potentials, maps, block.dilated)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("kind", [ConvBlock, LSTMBlock])
def test_a_block_is_what_the_oracle_says(kind: type[Block], dilated: bool) -> None:
    torch.manual_seed(1)
    block = kind(5, dilated, False, "half", projection("omega"), 0.0).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.mul_(3)  # so that many fire
        stream, membranes = torch.rand(2, 8, 12, 5), torch.randn(2, 8, 12, 10)
        after = block(Maps(stream, membranes))
        for row in range(2):
            binary = (stream[row] > 0.5).float().permute(2, 0, 1)
            left = None
            if isinstance(block, ConvBlock):
                sent = slow_conv(block, binary)
            else:
                assert isinstance(block, LSTMBlock)
                sent, left = slow_lstm(block, binary, membranes[row].permute(2, 0, 1))
            assert 0.05 < torch.cat([s.flatten() for s in sent]).mean() < 0.95
            condensed = averaged(sent, binary, dilated).permute(1, 2, 0)
            expected = stream[row] + block.linear.weights(condensed)
            expected = expected + block.mlp(expected)
            torch.testing.assert_close(after.stream[row], expected, atol=1e-5, rtol=1e-4)
            if left is not None:
                torch.testing.assert_close(after.membranes[row], left.permute(1, 2, 0), atol=1e-5, rtol=1e-4)
            else:
                assert after.membranes is None


def test_where_membranes_begin_and_go() -> None:
    """The first stage's plain blocks begin with nothing; all others with what is left, in smaller maps if need be."""
    network = tiny("window-lstm", depths=(3, 2)).eval()
    given: list[Tensor | None] = []
    left: list[Tensor] = []
    for block in blocks_of(network):
        block.register_forward_hook(lambda _, inputs, output: given.append(inputs[0].membranes))
        block.register_forward_hook(lambda _, inputs, output: left.append(output.membranes))
    with torch.no_grad():
        network(torch.randn(2, 3, 16, 16))
        assert [block.starts_empty for block in blocks_of(network)] == [True, False, True, False, False]
        assert given[0] is None
        assert given[1] is left[0]
        merged = network.get_submodule("merge1").membranes(neighbours(left[2]))
    assert given[3] is not None
    assert torch.equal(given[3], merged)
    assert given[3].shape == (2, 4, 4, 24)
    assert given[4] is left[3]
    # a block that begins with nothing is not moved by what it is given
    stream, first = torch.rand(1, 8, 8, 6), blocks_of(network)[0]
    with torch.no_grad():
        assert torch.equal(first(Maps(stream, torch.randn(1, 8, 8, 12))).stream, first(Maps(stream, None)).stream)


def test_gradients_pass_by_the_stream_alone() -> None:
    block = ConvBlock(4, True, False, "half", projection("omega"), 0.0)
    nn.init.zeros_(block.mlp.fc2.weight)
    stream = torch.rand(1, 4, 4, 4, requires_grad=True)
    block(Maps(stream, None)).stream.sum().backward()
    assert stream.grad is not None
    assert torch.equal(stream.grad, torch.ones_like(stream))
    for name in ("conv1", "conv2"):
        grad = getattr(block, name)["weights"].weight.grad
        assert grad.abs().sum() > 0


# --- networks ------------------------------------------------------------------------------------------------------


def sides(size: int) -> list[int]:
    network = convolutional("window-conv", (3, size, size), 0, width=0.05)
    seen: list[int] = []
    for number in range(1, 5):
        stage = network.get_submodule(f"stage{number}")
        stage.register_forward_hook(lambda _, inputs, output: seen.append(output.stream.shape[1]))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    return seen


@pytest.mark.parametrize(("size", "expected"), [(32, [16, 8, 4, 2]), (64, [32, 16, 8, 4]), (84, [44, 24, 12, 6])])
def test_sizes_of_the_maps(size: int, expected: list[int]) -> None:
    assert sides(size) == expected


@pytest.mark.parametrize("kind", WINDOWS)
def test_blocks_alternate(kind: str) -> None:
    network = convolutional(kind, (3, 32, 32), 0, width=0.05)
    dilated = [block.dilated for block in blocks_of(network)]
    assert dilated == [*[False, True] * 5, False, False]
    assert not any(block.dilated for block in blocks_of(tiny(kind, dilated=False)))
    assert [
        type(module).__name__ for module in network.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
    ] == []


@pytest.mark.parametrize(("kind", "by_block", "by_merge"), [("window-conv", 25, 8), ("window-lstm", 24, 8 + 32)])
def test_parameters_by_hand(kind: str, by_block: int, by_merge: int) -> None:
    """C^2 of a block: two convolutions 18, linear 1, perceptron 6; or LSTM 16, linear 2, perceptron 6."""
    with torch.device("meta"):
        network = classifier(kind, (3, 32, 32), 10, batch_norm=False)
    biases = sum(p.numel() for p in network.parameters() if p.dim() == 1)
    weights = sum(by_block * depth * c * c for depth, c in zip(DEPTHS, CHANNELS, strict=True))
    weights += sum(by_merge * c * c for c in CHANNELS[:-1])
    weights += 3 * 48 * 4 + 384 * 10
    assert sum(p.numel() for p in network.parameters()) == weights + biases
    by_channel = {"window-conv": 2 + 1 + 4, "window-lstm": 16 + 1 + 4}[kind]
    assert biases == 48 + sum(by_channel * depth * c for depth, c in zip(DEPTHS, CHANNELS, strict=True))
    assert round((weights + biases) / 1e6, 1) == {"window-conv": 13.9, "window-lstm": 14.9}[kind]


def test_products_of_the_papers_network() -> None:
    network = classifier("window-conv", (3, 32, 32), 10, batch_norm=False).eval()
    found = count_operations(network, torch.randn(1, 3, 32, 32), 1)
    assert round(sum(layer.macs * layer.passes for layer in found) / 1e6) == 247  # as its code counts


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("shape", [(4, 84, 84), (3, 40, 90), (1, 5, 3)])
def test_images_of_any_size(kind: str, shape: tuple[int, int, int]) -> None:
    network = tiny(kind, shape).eval()
    assert network(torch.rand(2, *shape)).shape == (2, 12)
    assert convolutional(kind, shape, 7, **TINY)(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("kind", WINDOWS)
def test_rows_do_not_mix_and_spikes_are_zero_or_one(kind: str) -> None:
    network, images = tiny(kind).eval(), torch.randn(3, 3, 16, 16)
    values: list[float] = []
    for neuron in neurons_of(network).values():
        neuron.register_forward_hook(lambda _, inputs, output: values.extend(output.unique().tolist()))
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone)
    assert set(values) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", WINDOWS)
def test_what_is_drawn(kind: str) -> None:
    images = torch.randn(2, 3, 16, 16)

    def answer(network: nn.Module, seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            found: Tensor = network(images)
        return found

    network = tiny(kind)
    assert torch.equal(answer(network.eval(), 1), answer(network, 2))
    assert torch.equal(answer(network.train(), 1), answer(network, 1))
    assert not torch.equal(answer(network, 1), answer(network, 2))
    drawing = tiny(kind, binary="bernoulli").eval()
    assert torch.equal(answer(drawing, 1), answer(drawing, 1))
    assert torch.equal(answer(drawing, 1), answer(network, 1))
    assert not torch.equal(answer(drawing, 1), answer(drawing, 2))


@pytest.mark.parametrize("binary", ["half", "bernoulli"])
def test_what_becomes_one(binary: str) -> None:
    block = ConvBlock(1, False, False, binary, projection("omega"), 0.0).eval()
    seen: list[Tensor] = []
    block.conv1["weights"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    stream = torch.tensor([-0.5, 0.5, 0.6, 1.5]).repeat(20000).view(1, 400, 200, 1)
    block(Maps(stream, None))
    shares = condense(seen[0], dilated=False).view(-1, 4).mean(0)
    expected = [0.0, 0.0, 1.0, 1.0] if binary == "half" else [0.0, 0.5, 0.6, 1.0]
    assert shares.tolist() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("options", [{"merge": "mean"}, {"theta": 0.3}, {"dilated": False}])
def test_options_change_the_answers(options: dict[str, Any]) -> None:
    images = torch.randn(2, 3, 16, 16)
    networks = [tiny("window-conv", **given).eval() for given in ({}, options)]
    with torch.no_grad():
        for network in networks:
            for neuron in ("conv1", "conv2"):
                for block in blocks_of(network):
                    getattr(block, neuron)["weights"].weight.mul_(4)
        assert not torch.equal(networks[0](images), networks[1](images))


# --- energy --------------------------------------------------------------------------------------------------------


def test_operations_by_hand() -> None:
    network = tiny("window-conv", (3, 8, 8), depths=(2,), width=0.125, dilated=True).eval()
    # of a network of one stage the blocks are plain; the second one is made dilated for the count
    block = ConvBlock(6, True, False, "half", projection("omega"), 0.0).eval()
    network.get_submodule("stage1").block2 = block
    images = torch.randn(2, 3, 8, 8) * 2
    sent: dict[str, Tensor] = {}
    for name, neuron in neurons_of(network).items():
        neuron.register_forward_hook(lambda _, inputs, output, name=name: sent.update({name: output}))
    layers = {layer.name: layer for layer in count_operations(network, images, 2)}
    parts = ("conv1", "conv2", "linear", "mlp.fc1", "mlp.fc2")
    assert list(layers) == ["stem", *(f"stage1.block{number}.{part}" for number in (1, 2) for part in parts)]
    stem = layers["stem"]
    assert (stem.spiking, stem.macs, stem.parameters) == (False, 16 * 6 * 12, 6 * 12 + 6)
    for number, places, side in ((1, 16, 2), (2, 36, 3)):
        conv1, conv2, linear, fc1, fc2 = (layers[f"stage1.block{number}.{part}"] for part in parts)
        assert conv1.spiking
        assert conv2.spiking
        assert linear.spiking
        assert not fc1.spiking
        assert not fc2.spiking
        assert conv1.macs == conv2.macs == places * 9 * 6 * 6
        assert (linear.macs, fc1.macs, fc2.macs) == (16 * 36, 16 * 3 * 36, 16 * 3 * 36)
        assert conv1.neurons == conv2.neurons == places * 6
        # three of four windows begin with potentials of others
        assert conv1.handed == conv2.handed == 3 * side**2 * 6
        first, second = (sent[f"stage1.block{number}.{name}"] for name in ("conv1", "conv2"))
        assert conv2.events == conv1.spikes == int(first.sum())
        assert linear.events == conv2.spikes == int(second.sum())
        # a spike in a window of 2x2 reaches all four places of each map; in 3x3, of a corner 4, an edge 6, the middle 9
        reach = torch.full((2, 2), 4) if side == 2 else torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]])
        assert conv2.active == int((first * reach).sum()) * 6
        assert linear.active == int(second.sum()) * 6
        assert conv1.rate == pytest.approx(float(first.mean()))
        found = tally(conv2, read_costs("arithmetic"))
        assert (found["multiply_accumulate"], found["compare"]) == (0, places * 6)
        assert found["multiply"] == conv2.handed
        assert found["add"] == conv2.handed + places * 6
        assert found["accumulate"] == conv2.active / 2
        assert found["potential_read"] == found["potential_write"] == conv2.handed
        ordinary = tally(conv2.ordinary, read_costs("arithmetic"))
        assert (ordinary["multiply_accumulate"], ordinary["multiply"]) == (conv2.macs, 0)


def test_operations_of_an_lstm_by_hand() -> None:
    network = tiny("window-lstm", (3, 8, 8), depths=(1,)).eval()
    seen: list[Tensor] = []
    weights = blocks_of(network)[0].lstm["weights"]
    weights.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    layers = {layer.name: layer for layer in count_operations(network, torch.randn(2, 3, 8, 8), 2)}
    inputs, hidden = layers["stage1.block1.lstm.input"], layers["stage1.block1.lstm"]
    # 16 places, two directions, four gates of 6 units
    assert (inputs.spiking, inputs.macs, inputs.parameters) == (True, 16 * 2 * 4 * 36, 2 * 4 * 36)
    assert inputs.events == int(seen[0].sum())
    assert inputs.active == int(seen[0].sum()) * 2 * 4 * 6
    assert (hidden.spiking, hidden.macs, hidden.biases) == (False, 16 * 2 * (4 * 36 + 3 * 6), 16 * 2 * 2 * 4 * 6)
    assert hidden.parameters + inputs.parameters == sum(p.numel() for p in weights.parameters())
    assert (hidden.neurons, hidden.handed) == (16 * 12, 4 * 12)
    assert layers["stage1.block1.linear"].events == hidden.spikes


def test_an_lstm_without_bias_keeps_its_weights() -> None:
    network = tiny("window-lstm", (3, 8, 8), depths=(1,)).eval()
    before = {name: value for name, value in network.state_dict().items() if value.dim() > 1}
    without_bias(network)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    layers = {layer.name: layer for layer in count_operations(network, torch.randn(2, 3, 8, 8), 2)}
    inputs, hidden = layers["stage1.block1.lstm.input"], layers["stage1.block1.lstm"]
    assert (hidden.parameters, hidden.biases) == (inputs.parameters, 0)


@pytest.mark.parametrize(("merge", "windows"), [("omega", [1, 4]), ("mean", [3, 4])])
def test_windows_that_are_handed_something(merge: str, windows: list[int]) -> None:
    """Omega(0, b) = 0: after an empty first window's potential nothing is handed to those below, but by the mean."""
    network = tiny("window-lstm", (3, 16, 16), depths=(2, 1), merge=merge).eval()
    layers = {layer.name: layer for layer in count_operations(network, torch.randn(2, 3, 16, 16), 2)}
    found = [layers[f"stage1.block{block}.lstm"] for block in (1, 2)]
    assert [layer.handed for layer in found] == [
        count * layer.neurons // 4 for count, layer in zip(windows, found, strict=True)
    ]


@pytest.mark.parametrize("kind", WINDOWS)
def test_rates_are_the_same_everywhere(kind: str) -> None:
    network = tiny(kind).eval()
    images = torch.randn(3, 3, 16, 16)
    with spike_counts(network) as counted, spike_rates(network) as rates, torch.no_grad():
        network(images)
    layers = {layer.name: layer for layer in count_operations(network, images, 3)}
    assert counted.keys() == rates.keys()
    for name, count in counted.items():
        assert 0 <= count.rate <= 1
        assert layers[name].rate == pytest.approx(count.rate)
        assert float(rates[name]) == pytest.approx(count.rate)


# --- classifiers ---------------------------------------------------------------------------------------------------


class Forgetful(StageFolder):
    """A stage's folder that keeps nothing."""

    def __init__(self) -> None:
        pass

    def load(self) -> None:
        return None

    def save(self, metadata: Any, tensors: Any) -> None:
        pass


def described(kind: str, images: ImageSet, T: int | None = 1, **changes: Any) -> Description:
    return Description(
        kind=kind,
        image_shape=images.train.shape,
        labels=images.classes,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        images="cifar10",
        width=0.125,
        batch_norm=False,
        T=T,
        **{"window": Windows(depths=(1, 2, 1))} | changes,
    )


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_classifier_learns_real_images(kind: str) -> None:
    # 234 images of four classes: chance is 0.25
    images = read_images("cifar10", DATA)
    torch.manual_seed(0)
    classifier = Classifier(described(kind, images, window=Windows(depths=(1, 1))), "cpu")
    settings = Training(epochs=8, batch_size=16, learning_rate=0.01, weight_decay=0.0, schedule="one-cycle")
    trained = Epochs(classifier, images, settings, Forgetful(), lambda *_: None, Logger(None, []), 0, "fp32").run()
    assert trained.training_curve[-1] >= 0.35


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_file_is_the_classifier(kind: str, tmp_path: Path) -> None:
    images = read_images("cifar10", DATA)
    saved = Classifier(described(kind, images, window=Windows(depths=(2, 1), theta=0.5, dilated=False)), "cpu")
    saved.save(tmp_path / "net.zip")
    loaded = Classifier.load(tmp_path / "net.zip", "cpu")
    batch = torch.randn(2, 3, 32, 32)
    assert loaded.description == saved.description
    assert torch.equal(loaded.network(batch), saved.network(batch))


LITTLE = "--network.width 0.125 --network.window.depths 1 1 --ann.epochs 1 --reduction.epochs 1 --device cpu --json"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_recipe_is_one_stage_from_scratch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", str(DATA), "--run", str(tmp_path / "run")]
    code, out, err = run(capsys, "train", "cifar10-window", *where, *LITTLE.split())
    assert code == 0, err
    (stage,) = json.loads(out.splitlines()[-1])["stages"]
    assert (stage["name"], stage["T"]) == ("T1", 1)
    assert set(stage["spike_rate"]) == {f"stage{n}.block1.conv{m}" for n in (1, 2) for m in (1, 2)}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["from"] == "scratch"
    trained = str(tmp_path / "run")
    assert run(capsys, "eval", trained, "--data", str(DATA), "--T", "1")[0] == 0
    assert run(capsys, "energy", trained, "--data", str(DATA))[0] == 0
    for words, line in (
        (["eval", trained, "--data", str(DATA), "--T", "2"], "decides in one timestep: give T=1, not 2"),
        (
            ["train", "cifar10-window", *where[:2], "--run", str(tmp_path / "again"), "--from", f"{trained}/T1.zip"],
            "network.kind window-conv is trained from scratch: give --teacher instead of --from, or neither",
        ),
    ):
        code, _, err = run(capsys, *words)
        assert (code, len(err.splitlines())) == (2, 1)
        assert line in err


def test_it_imitates_an_ordinary_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read_images("cifar10", DATA)
    teacher = Classifier(described("vgg6", images, None, hidden=(8,)), "cpu")
    teacher.save(tmp_path / "teacher.zip")
    where = ["--data", str(DATA), "--run", str(tmp_path / "run"), "--teacher", str(tmp_path / "teacher.zip")]
    imitates = ["--reduction.distillation", "1", "--gate.tolerance", "1"]
    code, out, err = run(capsys, "train", "cifar10-window", *where, *LITTLE.split(), *imitates)
    assert code == 0, err
    assert [stage["T"] for stage in json.loads(out.splitlines()[-1])["stages"]] == [None, 1]
    student = Classifier.load(tmp_path / "run" / "T1.zip", "cpu")
    assert student.description.kind == "window-conv"
    assert student.normalization == teacher.normalization


# --- agents --------------------------------------------------------------------------------------------------------


def extractor(kind: str, **options: Any) -> dict[str, Any]:
    given = {"network": kind, "features_dim": 0, "options": TINY | options}
    return {"features_extractor_kwargs": given}


def agent_of(kind: str, T: int | None = 1, **changes: Any) -> SpikingDQN:
    space = spaces.Box(0, 255, (1, 16, 16), np.uint8)
    return SpikingDQN("CnnPolicy", World(space), T=T, policy_kwargs=extractor(kind), **FAST | changes)


@pytest.mark.parametrize("kind", WINDOWS)
def test_an_agent_and_its_file(kind: str, tmp_path: Path) -> None:
    agent = agent_of(kind, double_q=False)
    before = {name: value.clone() for name, value in agent.q_net.state_dict().items()}
    agent.learn(40)
    moved = {name for name, value in agent.q_net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if "stem" in name or "mlp" in name or "head" in name} <= moved
    assert not same(agent.q_net.state_dict(), agent.q_net_target.state_dict())
    images = torch.as_tensor(batch_of(agent.observation_space, 5))
    agent.policy.set_training_mode(False)
    agent.save(tmp_path / "agent")
    loaded = SpikingDQN.load(tmp_path / "agent")
    loaded.policy.set_training_mode(False)
    assert loaded.T == 1
    assert torch.equal(loaded.q_net(images), agent.q_net(images))
    loaded.set_env(agent.get_env())
    assert loaded.learn(24, reset_num_timesteps=False).num_timesteps == 64


def test_an_agent_with_a_spiking_layer_behind_it() -> None:
    space = spaces.Box(0, 255, (1, 16, 16), np.uint8)
    kwargs = {"features_extractor_kwargs": {"network": "window-conv", "features_dim": 8, "options": TINY}}
    agent = SpikingDQN("CnnPolicy", World(space), T=1, policy_kwargs=kwargs, **FAST).learn(40)
    names = list(neurons_of(agent.q_net))
    assert names[-1] == "features_extractor.cnn.fc1"
    assert neurons_of(agent.q_net)[names[-1]].spike_value != 1.0  # set on the first batch


@pytest.mark.slow
def test_an_agent_learns_a_probe_world() -> None:
    """Which half is bright decides which action is right: Q = 1 and -1."""
    agent = SpikingDQN(
        "CnnPolicy",
        make("snnrl/ProbePixels-v0"),
        T=1,
        policy_kwargs=extractor("window-conv"),
        learning_starts=64,
        batch_size=32,
        buffer_size=1000,
        train_freq=4,
        target_update_interval=50,
        learning_rate=3e-3,
        exploration_final_eps=0.5,
        seed=0,
    ).learn(800)
    agent.policy.set_training_mode(False)
    pictures = np.zeros((2, 1, 36, 36), np.uint8)
    pictures[0, ..., :18] = pictures[1, ..., 18:] = 255
    with torch.no_grad():
        found = agent.q_net(torch.as_tensor(pictures))
    torch.testing.assert_close(found, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), atol=0.3, rtol=0)


def test_a_recipe_for_agents_is_one_stage_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "--network.kind window-conv --network.width 0.05 --network.features 0 --network.window.depths 1 1 --T 1 "
    words += "--ann.steps 40 --dqn.learning-starts 8 --dqn.buffer-size 64 --dqn.batch-size 4 --gate.episodes 1 "
    words += "--report-episodes 1 --most-steps 5 --run run --device cpu --json"
    code, out, err = run(capsys, "train", "cartpole", *words.split())
    assert code == 0, err
    assert [stage["name"] for stage in json.loads(out.splitlines()[-1])["stages"]] == ["T1"]
    assert run(capsys, "report", "run")[0] == 0
    for more, line in (
        ("--run two --T 2 --reduce-to 1", "network.kind window-conv decides in one timestep: give T 1"),
        (
            "--run two --from run/T1.zip",
            "network.kind window-conv is trained from scratch: give --teacher instead of --from",
        ),
    ):
        code, _, err = run(capsys, "train", "cartpole", *words.replace("--run run", more).split())
        assert (code, len(err.splitlines())) == (2, 1)
        assert line in err
        assert not Path("two").exists()


# --- what is refused -----------------------------------------------------------------------------------------------


def message(work: Any) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", WINDOWS)
def test_several_timesteps_are_refused(kind: str) -> None:
    several = "a network of windows decides in one timestep: give T=1, not 3"
    from_the_start = "the network spikes from the start, there is no ordinary one of its kind: give T=1, not None"
    images = read_images("cifar10", DATA)
    assert message(lambda: fill_slots(tiny(kind), "lif", 3, encoder=True)) == several
    assert message(lambda: agent_of(kind, T=3)) == several
    assert message(lambda: agent_of(kind, T=None)) == from_the_start
    assert message(lambda: Classifier(described(kind, images, 3), "cpu")) == several
    assert message(lambda: Classifier(described(kind, images, None), "cpu")) == from_the_start
    agent, trained = agent_of(kind), Classifier(described(kind, images), "cpu")
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    assert message(lambda: agent.reduce_to(3)) == several
    assert message(lambda: trained.reduce_to(3)) == several
    agent.reduce_to(1)
    assert (agent.T, trained.T) == (1, 1)
    assert same(agent.policy.state_dict(), before)


@pytest.mark.parametrize("kind", WINDOWS)
def test_conversion_and_carrying_are_refused(kind: str) -> None:
    agent = agent_of(kind)
    images = batch_of(agent.observation_space, 4)
    assert "spikes already, at T=1" in message(lambda: convert_agent(agent, images, T=1))
    network = SpikingNetwork(tiny(kind), 1, [])
    spikes = "the network spikes already: convert an ordinary one"
    assert message(lambda: convert(network, torch.rand(2, 3, 16, 16), steps=1)) == spikes
    agent.policy.carry = True
    keeps = "a network of windows keeps no potential between decisions: turn carry off"
    assert message(lambda: agent.predict(images, deterministic=True)) == keeps


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_norm": True}, "a network of windows has no batch-norm: turn it off"),
        ({"binary": "halv"}, "unknown binary 'halv'; did you mean 'half'?"),
        ({"merge": "omga"}, "unknown projection 'omga'; did you mean 'omega'?"),
        ({"depths": (1,) * 5}, "a network of windows has one to 4 stages, depths names 5"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], line: str) -> None:
    assert message(lambda: tiny("window-conv", **options)) == line


@pytest.mark.parametrize(
    ("model", "values", "line"),
    [
        (ImageRecipe, {"schedule": [2, 1]}, "decides in one timestep: give T 1, and no other schedule than 1"),
        (ImageRecipe, {"T": 2}, "decides in one timestep: give T 1, and no other schedule than 1"),
        (ImageRecipe, {"T": 1, "pruning": {"share": 0.5}}, "has thresholds that cannot be lowered for pruning"),
        (Recipe, {"T": 2}, "decides in one timestep: give T 1, and no other schedule than 1"),
        (Recipe, {"T": 1, "network": {"kind": "nature", "width": 0.5}}, "network.width is of networks for images"),
        (Recipe, {"T": 1, "network": {"window": {"merge": "mean", "theta": 0.5}}}, "the mean has none"),
        (
            Recipe,
            {"network": {"kind": "nature", "window": {"theta": 0.5}}},
            "network.window is of window-conv and window-lstm, not of nature: leave it out",
        ),
        (ImageRecipe, {"network": {"window": {"depths": [1]}}}, "not of vgg6: leave it out"),
    ],
)
def test_recipes_that_are_refused(model: Any, values: dict[str, Any], line: str) -> None:
    place = {"images": "cifar10"} if model is ImageRecipe else {"env": "A"}
    assert line in message(lambda: validate(model, {"network": {"kind": "window-lstm"}} | place | values, "here"))
