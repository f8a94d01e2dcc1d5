"""A network that names what an image shows, ordinary or spiking, with all that it needs to be used again."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from snnrl.agents.settings import Neuron, Positive, Settings, Share, Steps, Windows, options_of
from snnrl.checkpoint import match_shapes, read_archive, write_archive
from snnrl.config import validate
from snnrl.envs.images import Normalization
from snnrl.errors import UserError
from snnrl.networks import SpikingNetwork, check_ordinary, classifier, fill_slots

HEAD = "decision.head"


class Description(Settings):
    """What a classifier is made with; together with its weights, all of a file."""

    kind: str
    """Of network: vgg6, vgg16, resnet20, one of these with hoyer- in front, window-conv or window-lstm."""
    image_shape: tuple[Positive, Positive, Positive]
    """Channels, height, width."""
    labels: Annotated[tuple[str, ...], Field(min_length=2, max_length=100_000)]
    """Names of the classes."""
    mean: tuple[float, ...]
    """Of each channel of the training images, bytes scaled to between 0 and 1."""
    std: tuple[float, ...]
    images: str
    """The set it was trained on."""
    width: float = Field(1.0, gt=0)
    hidden: tuple[Positive, ...] | None = None
    batch_norm: bool = True
    """Whether the network has batch-norm; a converted one has none."""
    neuron: Neuron = "lif"
    dropout: Share = 0.0
    window: Windows = Windows()
    T: Steps | None = None
    """Timesteps per decision; None: the ordinary network."""


def chosen_device(device: str | torch.device) -> torch.device:
    """Return the device; auto: a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


class Classifier:
    """Its ``network`` takes normalised images ``(B, C, H, W)`` to logits ``(B, classes)``."""

    def __init__(self, description: Description, device: str | torch.device = "auto") -> None:
        self.description = description
        self.device = chosen_device(device)
        body = classifier(
            description.kind,
            description.image_shape,
            len(description.labels),
            hidden=description.hidden,
            batch_norm=description.batch_norm,
            dropout=description.dropout,
            width=description.width,
            **options_of(description.kind, description.window),
        )
        if description.T is None:
            check_ordinary(body)
            self.network: nn.Module = body
        else:
            fill_slots(body, description.neuron, description.T, encoder=True)
            self.network = SpikingNetwork(body, description.T, [HEAD])
        self.network.to(self.device, memory_format=memory_format(body)).eval()  # type: ignore[call-overload]

    @property
    def T(self) -> int | None:
        """Timesteps per decision; None for the ordinary network."""
        return self.description.T

    @property
    def body(self) -> nn.Module:
        """The network without the sum over time, whose names of weights are the same at every T."""
        return self.network.body if isinstance(self.network, SpikingNetwork) else self.network

    def reduce_to(self, steps: int) -> None:
        """Decide in ``steps`` timesteps from now on, with the same weights, thresholds and leaks.

        Raises:
            UserError: the network does not spike.
        """
        if not isinstance(self.network, SpikingNetwork):
            raise UserError("this classifier is an ordinary network: it decides in no timesteps")
        self.network.reduce_to(steps)
        self.description = self.description.model_copy(update={"T": steps})

    def drop(self, share: float) -> None:
        """Leave out this share of activations from now on, in training, where the network has dropout."""
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
        self.description = self.description.model_copy(update={"dropout": share})

    @property
    def normalization(self) -> Normalization:
        """What is done to bytes before the network sees them."""
        return Normalization(self.description.mean, self.description.std)

    def save(self, path: Path) -> None:
        """Write safetensors and JSON, replacing the file in one step."""
        metadata = {"kind": "classifier", "description": self.description.model_dump(mode="json")}
        write_archive(path, metadata, {"network": self.body.state_dict()})

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> "Classifier":
        """Read a classifier that :meth:`save` wrote; nothing is unpickled.

        Raises:
            UserError: the file is missing, damaged or of another kind.
        """
        archive = read_archive(path)
        if archive.metadata.get("kind") != "classifier":
            raise UserError(f"cannot read {path}: it holds no classifier; choose another file")
        found = cls(validate(Description, archive.metadata.get("description") or {}, str(path)), device)
        weights = archive.tensors.get("network", {})
        match_shapes(found.body, weights, str(path))
        found.body.load_state_dict(weights)
        return found


def memory_format(network: nn.Module) -> torch.memory_format:
    """Return channels_last, the faster one for convolutions on a CPU too, but for networks that torch crashes on.

    The backward of a strided convolution of 1x1 with fewer than eight channels writes beyond its memory (torch 2.13).
    """
    narrow = any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < 8
        for layer in network.modules()
    )
    return torch.contiguous_format if narrow else torch.channels_last
