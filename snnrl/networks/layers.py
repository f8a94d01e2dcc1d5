"""Blocks with an activation slot: a weighted layer, perhaps pooling and batch-norm, and ``act`` for a neuron."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snnrl.errors import UserError


def block(
    weights: nn.Module,
    norm: nn.Module | None = None,
    activation: type[nn.Module] | None = nn.ReLU,
    *,
    pool: nn.Module | None = None,
) -> nn.Sequential:
    """Return ``weights -> [pool] -> [norm] -> [act]`` as named parts, so that folding the norm away renames nothing."""
    parts = OrderedDict(weights=weights)
    if pool is not None:
        parts["pool"] = pool
    if norm is not None:
        parts["norm"] = norm
    if activation is not None:
        parts["act"] = activation()
    return nn.Sequential(parts)


def conv_features(
    observation_shape: tuple[int, int, int],
    convolutions: Sequence[tuple[int, int, int]],
    features: int,
    *,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Return conv1..convN and a fully connected ``fc1``: images ``(B, C, H, W)`` to features ``(B, features)``.

    ``convolutions`` lists ``(channels, kernel, stride)``; with ``features`` 0 the flattened maps are the features.
    """
    channels = observation_shape[0]
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (width, kernel, stride) in enumerate(convolutions, 1):
        convolution = nn.Conv2d(channels, width, kernel, stride)
        parts[f"conv{number}"] = block(convolution, nn.BatchNorm2d(width) if batch_norm else None)
        channels = width
    return with_features(parts, observation_shape, features)


def with_features(
    maps: Mapping[str, nn.Module], observation_shape: tuple[int, int, int], features: int
) -> nn.Sequential:
    """Return ``maps``, flattened, and behind them a fully connected ``fc1`` unless ``features`` is 0."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(maps, flatten=nn.Flatten())
    if features:
        flat = output_width(nn.Sequential(parts), observation_shape)
        parts["fc1"] = block(nn.Linear(flat, features))
    return nn.Sequential(parts)


def share_of(channels: int, width: float) -> int:
    """Return ``width`` of the channels, at least one."""
    return max(1, round(width * channels))


def without_bias(network: nn.Module) -> None:
    """Take the bias off every linear and convolutional layer and every LSTM, in place.

    Raises:
        UserError: the network has batch-norm, which conversion folds into biases.
    """
    for layer in [*network.modules()]:
        if isinstance(layer, _BatchNorm):
            raise UserError("batch-norm becomes a bias when it is folded: a network without bias cannot have it")
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            layer.register_parameter("bias", None)
        for name, part in layer.named_children():
            if isinstance(part, nn.LSTM):
                setattr(layer, name, _lstm_without_bias(part))


def _lstm_without_bias(layer: nn.LSTM) -> nn.LSTM:
    bare = nn.LSTM(
        layer.input_size,
        layer.hidden_size,
        layer.num_layers,
        bias=False,
        batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
    )
    bare.load_state_dict(layer.state_dict(), strict=False)
    return bare


def output_width(network: nn.Module, observation_shape: Sequence[int]) -> int:
    """Return the number of features that ``network`` makes of one observation of this shape.

    Raises:
        UserError: nothing is left of it behind the kernels.
    """
    training = network.training
    try:
        probe: Tensor = network.eval()(torch.zeros(1, *observation_shape))
    except RuntimeError as error:
        raise UserError(
            f"images of shape {tuple(observation_shape)} are too small for the network's kernels"
        ) from error
    network.train(training)
    return int(probe.shape[1])


class HeldDropout(nn.Dropout):
    """Dropout behind neurons: its mask is drawn once a forward and held over the timesteps (arXiv 2110.05929, App.)."""

    def __init__(self, p: float, steps: int) -> None:
        super().__init__(p)
        self.steps = steps

    def forward(self, spikes: Tensor) -> Tensor:
        """Return ``(T * B, ...)``, in training with the same neurons left out at every step."""
        if not self.training or self.p == 0:
            return spikes
        by_time = spikes.view(self.steps, -1, *spikes.shape[1:])
        kept: Tensor = super().forward(torch.ones_like(by_time[0]))
        return (by_time * kept).flatten(0, 1)
