"""The convolutional networks by name, and image classifiers made of them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from snnrl.errors import UserError, did_you_mean
from snnrl.networks.layers import output_width, share_of
from snnrl.networks.mlp import mlp
from snnrl.networks.nature_cnn import nature_cnn
from snnrl.networks.resnet import hoyer_resnet20, resnet20
from snnrl.networks.small_conv import small_conv
from snnrl.networks.vgg import vgg6, vgg16
from snnrl.networks.window import window_conv, window_lstm

CONVOLUTIONAL: dict[str, Callable[..., nn.Sequential]] = {
    "small": small_conv,
    "nature": nature_cnn,
    "vgg6": vgg6,
    "vgg16": vgg16,
    "resnet20": resnet20,
    "hoyer-vgg6": partial(vgg6, pool_first=True),
    "hoyer-vgg16": partial(vgg16, pool_first=True),
    "hoyer-resnet20": hoyer_resnet20,
    "window-conv": window_conv,
    "window-lstm": window_lstm,
}
WINDOWS = ("window-conv", "window-lstm")
"""Of these, those of arXiv 2401.10843: they spike from the start, in one timestep, with weights that begin its way."""
FROM_SCRATCH = ("hoyer-vgg6", "hoyer-vgg16", "hoyer-resnet20", *WINDOWS)
"""Of these, those that no ordinary network is converted to: batch-norm behind pooling cannot be folded."""
CLASSIFIERS: dict[str, tuple[int, ...]] = {
    "vgg6": (4096, 4096),
    "vgg16": (4096, 4096),
    "resnet20": (),
    "hoyer-vgg6": (4096, 4096),
    "hoyer-vgg16": (4096, 4096),
    "hoyer-resnet20": (),
    **dict.fromkeys(WINDOWS, ()),
}
"""Networks of arXiv 2110.05929, 2212.10170 and 2401.10843 for images, and the widths of their linear layers."""


def convolutional(kind: str, image_shape: tuple[int, int, int], features: int, **options: Any) -> nn.Sequential:
    """Return the feature part of a kind of :data:`CONVOLUTIONAL`: images ``(B, C, H, W)`` to ``(B, features)``.

    Raises:
        UserError: there is no such kind, or the images are too small for it.
    """
    if kind not in CONVOLUTIONAL:
        raise UserError(f"unknown network {kind!r}{did_you_mean(kind, CONVOLUTIONAL)}")
    return CONVOLUTIONAL[kind](image_shape, features, **options)


def classifier(
    kind: str,
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    hidden: Sequence[int] | None = None,
    batch_norm: bool = True,
    dropout: float = 0.5,
    width: float = 1.0,
    **options: Any,
) -> nn.Sequential:
    """Return a kind of :data:`CLASSIFIERS`, images ``(B, C, H, W)`` to logits ``(B, classes)``, its weights He-normal.

    ``hidden``: widths of the fully connected layers before the head, by default those of the kind; ``width``: the share
    of the kind's channels and of the units of those layers; ``options``: others of the kind. A spiking network
    has neurons in its slots (:func:`fill_slots`), no batch-norm and, in the paper, a ``dropout`` of 0.2.

    Raises:
        UserError: there is no such kind, or the images are too small for it.
    """
    if kind not in CLASSIFIERS:
        raise UserError(f"unknown network {kind!r}{did_you_mean(kind, CLASSIFIERS)}")
    features = convolutional(kind, image_shape, 0, batch_norm=batch_norm, dropout=dropout, width=width, **options)
    widths = [share_of(units, width) for units in CLASSIFIERS[kind]] if hidden is None else hidden
    decision = mlp(output_width(features, image_shape), widths, classes, bias=False, dropout=dropout)
    network = nn.Sequential(OrderedDict(features=features, decision=decision))
    for layer in (decision if kind in WINDOWS else network).modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if kind in WINDOWS:
        # nothing is normalised: larger answers would begin with a loss of 12. Zeros would be taken for pruned weights.
        head = decision.get_submodule("head")
        assert isinstance(head, nn.Linear)
        nn.init.normal_(head.weight, std=1e-3)
    return network
