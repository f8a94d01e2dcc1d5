"""Networks with activation slots; the ordinary and the spiking network are one network with its slots filled."""

from snnrl.networks.convolutional import (
    CLASSIFIERS,
    CONVOLUTIONAL,
    FROM_SCRATCH,
    WINDOWS,
    classifier,
    convolutional,
)
from snnrl.networks.folding import Comparison, folded
from snnrl.networks.layers import HeldDropout, block, conv_features, output_width, without_bias
from snnrl.networks.mlp import DuelingMLP, mlp
from snnrl.networks.nature_cnn import nature_cnn
from snnrl.networks.penalties import Prices, penalized
from snnrl.networks.poisson import encode_by_rate
from snnrl.networks.pruning import Pruned, prune_weights
from snnrl.networks.recurrent import RecurrentLayer
from snnrl.networks.resnet import hoyer_resnet20, resnet20
from snnrl.networks.small_conv import small_conv
from snnrl.networks.spiking import (
    NetworkState,
    SpikingNetwork,
    calibrating,
    carried,
    change_steps,
    check_ordinary,
    constrain,
    fill_slots,
    neurons_of,
    reset_rows,
    spike_counts,
    spike_rates,
)
from snnrl.networks.vgg import vgg6, vgg16
from snnrl.networks.views import VIEWS, View
from snnrl.networks.window import window_conv, window_lstm

__all__ = [
    "CLASSIFIERS",
    "CONVOLUTIONAL",
    "FROM_SCRATCH",
    "VIEWS",
    "WINDOWS",
    "Comparison",
    "DuelingMLP",
    "HeldDropout",
    "NetworkState",
    "Prices",
    "Pruned",
    "RecurrentLayer",
    "SpikingNetwork",
    "View",
    "block",
    "calibrating",
    "carried",
    "change_steps",
    "check_ordinary",
    "classifier",
    "constrain",
    "conv_features",
    "convolutional",
    "encode_by_rate",
    "fill_slots",
    "folded",
    "hoyer_resnet20",
    "mlp",
    "nature_cnn",
    "neurons_of",
    "output_width",
    "penalized",
    "prune_weights",
    "reset_rows",
    "resnet20",
    "small_conv",
    "spike_counts",
    "spike_rates",
    "vgg6",
    "vgg16",
    "window_conv",
    "window_lstm",
    "without_bias",
]
