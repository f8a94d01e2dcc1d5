"""A network at one timestep for other machines: C99, ONNX and NIR."""

from snnrl.export import compiled
from snnrl.export.c import to_c
from snnrl.export.chain import Chain, Layer, Observation, chain_of, currents
from snnrl.export.program import EventLayer, Program, Trace, lower, run
from snnrl.export.whole import Bits, rounded

__all__ = [
    "Bits",
    "Chain",
    "EventLayer",
    "Layer",
    "Observation",
    "Program",
    "Trace",
    "chain_of",
    "compiled",
    "currents",
    "lower",
    "rounded",
    "run",
    "to_c",
]
