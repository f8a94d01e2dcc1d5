"""Spiking neurons: the equations as functions, the kinds of neuron as modules."""

from snnrl.neurons.binary import Binary
from snnrl.neurons.functional import Scan, fire, lif_scan
from snnrl.neurons.hoyer import FixedHoyer, Hoyer, hoyer_extremum, hoyer_measure
from snnrl.neurons.lif import IF, LIF
from snnrl.neurons.neuron import SpikeCount, SpikingNeuron
from snnrl.neurons.readout import ExpandTime, sum_over_time
from snnrl.neurons.surrogate import GAMMA, linear_surrogate
from snnrl.neurons.window import WindowNeuron

NEURONS: dict[str, type[SpikingNeuron]] = {
    "lif": LIF,
    "if": IF,
    "binary": Binary,
    "hoyer": Hoyer,
    "hoyer-fixed": FixedHoyer,
}

__all__ = [
    "GAMMA",
    "IF",
    "LIF",
    "NEURONS",
    "Binary",
    "ExpandTime",
    "FixedHoyer",
    "Hoyer",
    "Scan",
    "SpikeCount",
    "SpikingNeuron",
    "WindowNeuron",
    "fire",
    "hoyer_extremum",
    "hoyer_measure",
    "lif_scan",
    "linear_surrogate",
    "sum_over_time",
]
