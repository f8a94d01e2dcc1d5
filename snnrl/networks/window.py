"""Networks of windows, which spike from the start and decide in one timestep (arXiv 2401.10843).

Stages of blocks x <- x + linear(spikes(binary(x))), x <- x + mlp(x): the stream x and the perceptrons are real-valued,
what lies between are neurons that hand their potentials from window to window (:mod:`snnrl.neurons.window`).
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snnrl.energy import LayerOperations, counts
from snnrl.energy.operations import Count, count_events, count_neurons
from snnrl.errors import UserError, did_you_mean
from snnrl.networks.layers import share_of, with_features
from snnrl.networks.tiling import condense, coverage, cut, neighbours, pad
from snnrl.neurons.window import THETA, Projection, WindowNeuron, pass_around, pass_on, projection

CHANNELS = (48, 96, 192, 384)
"""Of the stages (code of arXiv 2401.10843)."""
DEPTHS = (2, 2, 6, 2)
"""Blocks of the stages (code of arXiv 2401.10843)."""
WIDER = 3
"""Hidden units of a block's perceptron for each of its channels (code of arXiv 2401.10843)."""
BINARIES = ("half", "bernoulli")
"""How values become 0 or 1 when the network does not learn: above a half, or as when it learns."""


class Maps(NamedTuple):
    """What stages hand on: the stream, and the potentials of the last LSTM."""

    stream: Tensor
    """``(B, H, W, C)``."""
    membranes: Tensor | None
    """``(B, H, W, 2 C)``; None before the first LSTM, and in networks of convolutions."""


def window_conv(observation_shape: tuple[int, int, int], features: int = 512, **options: Any) -> nn.Sequential:
    """Return the network whose blocks have two spiking convolutions: images ``(B, C, H, W)`` to ``(B, features)``.

    ``options`` are those of :func:`window_network`.
    """
    return window_network(ConvBlock, observation_shape, features, **options)


def window_lstm(observation_shape: tuple[int, int, int], features: int = 512, **options: Any) -> nn.Sequential:
    """Return the network whose blocks have a spiking bidirectional LSTM: images to ``(B, features)``.

    ``options`` are those of :func:`window_network`.
    """
    return window_network(LSTMBlock, observation_shape, features, **options)


def window_network(
    kind: "type[Block]",
    observation_shape: tuple[int, int, int],
    features: int,
    *,
    batch_norm: bool = False,
    dropout: float = 0.0,
    width: float = 1.0,
    depths: Sequence[int] = DEPTHS,
    dilated: bool = True,
    theta: float = THETA,
    merge: str = "omega",
    binary: str = "half",
) -> nn.Sequential:
    """Return a stem of 2x2, stages, the mean over places, and ``fc1`` unless ``features`` is 0.

    Every other block has ``dilated`` windows, none of the last stage. ``width``: the share of the paper's channels;
    ``depths``: blocks of up to four stages; ``merge``: the projection, omega (with ``theta``) or mean; ``binary``: one
    of :data:`BINARIES`; ``dropout``: in the perceptrons. Images of any size are padded.

    Raises:
        UserError: an option is none of those, or batch-norm is asked for, which these networks do not have.
    """
    if batch_norm:
        raise UserError("a network of windows has no batch-norm: turn it off")
    if binary not in BINARIES:
        raise UserError(f"unknown binary {binary!r}{did_you_mean(binary, BINARIES)}")
    if not 1 <= len(depths) <= len(CHANNELS):
        raise UserError(f"a network of windows has one to {len(CHANNELS)} stages, depths names {len(depths)}")
    last = len(depths) - 1
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    channels = observation_shape[0]
    for stage, depth in enumerate(depths):
        before, channels = channels, share_of(CHANNELS[stage], width)
        windows = [dilated and stage < last and block % 2 == 1 for block in range(depth)]
        multiple = 4 if any(windows) else 2
        if stage == 0:
            parts["stem"] = Stem(before, channels, multiple)
        else:
            parts[f"merge{stage}"] = Merge(before, channels, multiple, membranes=kind is LSTMBlock)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for number, wide in enumerate(windows, 1):
            blocks[f"block{number}"] = kind(channels, wide, stage == 0, binary, projection(merge, theta), dropout)
        parts[f"stage{stage + 1}"] = nn.Sequential(blocks)
    parts["mean"] = Mean()
    _initialise(parts.values())
    return with_features(parts, observation_shape, features)


def _initialise(parts: Any) -> None:
    """Give weights the paper's initial values (its code); those of LSTMs are torch's."""
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Stem(nn.Module):
    """A convolution of 2x2 with stride 2: images ``(B, C, H, W)`` to maps, padded to a multiple of ``multiple``."""

    def __init__(self, channels: int, width: int, multiple: int) -> None:
        super().__init__()
        self.weights = nn.Conv2d(channels, width, 2, 2)
        self.multiple = multiple

    def forward(self, images: Tensor) -> Maps:
        """Return the maps."""
        even = pad(images.permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)
        return Maps(pad(self.weights(even).permute(0, 2, 3, 1), self.multiple), None)


class Merge(nn.Module):
    """Maps of half the size: each 2x2 is one place, by a linear layer without bias; the same with ``membranes``."""

    def __init__(self, channels: int, width: int, multiple: int, *, membranes: bool) -> None:
        super().__init__()
        self.weights = nn.Linear(4 * channels, width, bias=False)
        self.membranes = nn.Linear(8 * channels, 2 * width, bias=False) if membranes else None
        self.multiple = multiple

    def forward(self, maps: Maps) -> Maps:
        """Return the smaller maps, padded."""
        stream = pad(self.weights(neighbours(maps.stream)), self.multiple)
        if self.membranes is None or maps.membranes is None:
            return Maps(stream, None)
        return Maps(stream, pad(self.membranes(neighbours(maps.membranes)), self.multiple))


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, maps: Maps) -> Tensor:
        """Return features ``(B, C)``."""
        return maps.stream.mean((1, 2))


class Block(nn.Module, ABC):
    """x <- x + linear(condense(spikes(binary(x)))), then x <- x + mlp(x).

    While it learns, binary(x) = 1[x > U(0, 1)], drawn anew for every element; else 1[x > 0.5], unless it is to be drawn
    then too. No gradient passes through it: the layers before a block learn by the stream alone.
    """

    spiking: int
    """Maps of spikes for each channel of the stream."""

    def __init__(
        self, channels: int, dilated: bool, first: bool, binary: str, merge: Projection, dropout: float
    ) -> None:
        super().__init__()
        self.dilated = dilated
        self.binary = binary
        self.merge = merge
        self.starts_empty = first and not dilated
        self.make(channels)
        self.linear = Condensed(dilated, self.spiking * channels, channels)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(channels, WIDER * channels),
                gelu=nn.GELU(),
                dropout=nn.Dropout(dropout),
                fc2=nn.Linear(WIDER * channels, channels),
            )
        )

    @abstractmethod
    def make(self, channels: int) -> None:
        """Make the spiking layers."""

    @abstractmethod
    def spikes(self, windows: Tensor, membranes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return spikes ``(B, 4, S, h, w)`` of binary windows ``(B, 4, C, h, w)``, and the membranes they leave."""

    def forward(self, maps: Maps) -> Maps:
        """Return maps of the same shapes."""
        stream = maps.stream
        level = torch.rand_like(stream) if self.training or self.binary == "bernoulli" else 0.5
        windows = cut((stream > level).to(stream.dtype), self.dilated)
        spikes, membranes = self.spikes(windows, maps.membranes)
        stream = stream + self.linear(spikes)
        return Maps(stream + self.mlp(stream), membranes)


class ConvBlock(Block):
    """Two convolutions of 3x3 whose neurons pass potentials on to the next window.

    The first ones' pass on as they are, m1; the second ones begin with merge(m1, m2) of the window before.
    """

    spiking = 1

    def make(self, channels: int) -> None:
        """Make both convolutions and their neurons."""
        self.conv1 = nn.ModuleDict({"weights": WindowConv(channels), "act": WindowNeuron(handed=3)})
        self.conv2 = nn.ModuleDict({"weights": WindowConv(channels), "act": WindowNeuron(handed=3)})

    def spikes(self, windows: Tensor, membranes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return spikes ``(B, 4, C, h, w)``."""
        first = pass_on(self.conv1["weights"](windows), lambda _, potential: potential)
        currents = self.conv2["weights"](self.conv1["act"](first))
        second = pass_on(currents, lambda index, potential: self.merge(first[:, index], potential))
        return self.conv2["act"](second), None


class LSTMBlock(Block):
    """A bidirectional LSTM over the places of a window, row by row, whose output is the current of its neurons.

    Their potentials live in maps as large as the stream's: windows begin with merged crops of those that the block
    before left, which are empty in plain blocks of the first stage.
    """

    spiking = 2

    def make(self, channels: int) -> None:
        """Make the LSTM and its neurons."""
        handed = 4
        if self.starts_empty:  # the second window begins with the first; those below too, where the projection keeps it
            nothing, something = torch.tensor((0.0, 1.0), device="cpu")
            handed = 3 if self.merge(nothing, something) else 1
        self.lstm = nn.ModuleDict({"weights": WindowLSTM(channels), "act": WindowNeuron(handed=handed)})

    def spikes(self, windows: Tensor, membranes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return spikes ``(B, 4, 2 C, h, w)`` and the membranes ``(B, H, W, 2 C)``."""
        currents = self.lstm["weights"](windows)
        if self.starts_empty:
            membranes = None
        before = torch.zeros_like(currents) if membranes is None else cut(membranes, self.dilated)
        potentials = pass_around(currents, before.unbind(1), self.merge)
        return self.lstm["act"](potentials), condense(potentials, self.dilated)


class WindowConv(nn.Conv2d):
    """A convolution of 3x3 in each window by itself, padded with zeros: windows ``(B, 4, C, h, w)`` to their like."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the currents."""
        currents: Tensor = super().forward(windows.flatten(0, 1))
        return currents.view_as(windows)


class WindowLSTM(nn.Module):
    """A bidirectional LSTM over the h * w places of a window: windows ``(B, 4, C, h, w)`` to ``(B, 4, 2 C, h, w)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, batch_first=True, bidirectional=True)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the currents, forward and backward side by side."""
        batch, count, channels, height, width = windows.shape
        places = windows.permute(0, 1, 3, 4, 2).reshape(batch * count, height * width, channels)
        currents: Tensor = self.lstm(places)[0]
        return currents.view(batch, count, height, width, 2 * channels).permute(0, 1, 4, 2, 3)


class Condense(nn.Module):
    """Spikes of windows as maps; see :func:`snnrl.networks.tiling.condense`."""

    def __init__(self, dilated: bool) -> None:
        super().__init__()
        self.dilated = dilated

    def forward(self, windows: Tensor) -> Tensor:
        """Return maps ``(B, H, W, C)``."""
        return condense(windows, self.dilated)


class Condensed(nn.Sequential):
    """A linear layer at every place of condensed windows: ``(B, 4, S, h, w)`` to ``(B, H, W, C)``."""

    def __init__(self, dilated: bool, spikes: int, channels: int) -> None:
        super().__init__(OrderedDict(condense=Condense(dilated), weights=nn.Linear(spikes, channels)))


@counts(Condense)
def count_condense(count: Count, name: str, layer: Condense, values: Tensor, output: Tensor) -> None:
    """Leave it to the next layer, where each spike of a window adds a share of a weight."""
    _, height, width, _ = output.shape
    count.pooled = coverage(height, width, layer.dilated).to(output.device)


@counts(Condensed)
def count_condensed(count: Count, name: str, layer: Condensed, values: Tensor, output: Tensor) -> None:
    """Forget the windows, once the layer that reads them is counted."""
    count.pooled = 1


@counts(WindowNeuron)
def count_window_neurons(count: Count, name: str, layer: WindowNeuron, values: Tensor, output: Tensor) -> None:
    """Give the neurons to the weighted layer before them, and the potentials that others hand them."""
    count_neurons(count, name, layer, values, output)
    windows = output.shape[1]
    count.layers[-1] = replace(count.layers[-1], handed=output[0].numel() * layer.handed // windows)


@counts(WindowLSTM)
def count_lstm(count: Count, name: str, layer: WindowLSTM, values: Tensor, output: Tensor) -> None:
    """Weights added for spikes, and behind them what is real-valued: products with the hidden state, and of gates.

    A place and direction has 4 C^2 products of the hidden state, and three of each unit: of its cell, its input and its
    output with their gates.
    """
    spiking, events = count_events(count, values)
    channels = layer.lstm.input_size
    gates = 4 * channels * 2
    places = values[0].numel() // channels
    inputs = LayerOperations(
        f"{name}.input",
        count.decisions,
        passes=1,
        macs=places * channels * gates,
        spiking=spiking,
        events=int(events.sum()),
        active=int(events.sum()) * gates,
        inputs=values[0].numel(),
        outputs=places * gates,
        parameters=channels * gates,
    )
    hidden = LayerOperations(
        name,
        count.decisions,
        passes=1,
        macs=places * (channels * gates + 3 * 2 * channels),
        spiking=False,
        events=count.decisions * places * 2 * channels,
        active=count.decisions * places * (channels * gates + 3 * 2 * channels),
        inputs=places * 2 * channels,
        outputs=places * 2 * channels,
        parameters=channels * gates + 2 * gates * layer.lstm.bias,
        biases=2 * places * gates * layer.lstm.bias,
    )
    count.layers += [inputs, hidden]
