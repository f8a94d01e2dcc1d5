"""A network at one timestep for other machines: C99, ONNX and NIR."""

from snnrl.export import compiled
from snnrl.export.agreement import Agreement, agreement
from snnrl.export.c import to_c
from snnrl.export.chain import Chain, Firing, Layer, Observation, chain_of, currents
from snnrl.export.nir import nir_bytes, to_nir
from snnrl.export.onnx import to_onnx
from snnrl.export.program import EventLayer, Program, Trace, lower, run
from snnrl.export.whole import Bits, rounded

__all__ = [
    "Agreement",
    "Bits",
    "Chain",
    "EventLayer",
    "Firing",
    "Layer",
    "Observation",
    "Program",
    "Trace",
    "agreement",
    "chain_of",
    "compiled",
    "currents",
    "lower",
    "nir_bytes",
    "rounded",
    "run",
    "to_c",
    "to_nir",
    "to_onnx",
]
