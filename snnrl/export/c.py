"""C99 from a program: one header and one source without heap or libraries, and what builds and checks them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from snnrl.export.program import LARGEST_INPUT, EventLayer, Program
from snnrl.networks import View
from snnrl.networks.views import BinaryView

CHUNK = 32
"""Bytes of an observation that are compared at once with what it usually is."""
TYPES = {"float32": "float", "int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}
PER_LINE = 16
LARGEST_FLOAT = float(np.finfo(np.float32).max)


FILES = (
    "snnrl_agent.h",
    "snnrl_agent.c",
    "CMakeLists.txt",
    "library.properties",
    "examples/decide.c",
    "examples/decide/decide.ino",
)
"""A library for plain CMake, ESP-IDF and Arduino."""


def to_c(program: Program, title: str, version: str) -> dict[str, str]:
    """Return the files of a program: name to content. ``title`` and ``version`` go into comments."""
    environment = Environment(
        loader=PackageLoader("snnrl.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    values = _values(program) | {"title": _comment(title), "version": version}
    return {name: environment.get_template(f"{name}.jinja").render(values) for name in FILES}


def _values(program: Program) -> dict[str, Any]:
    layers = []
    first_neuron = 0
    for layer in program.layers:
        layers.append(_layer(layer, first_neuron))
        first_neuron += int(np.prod(layer.shape_spikes))
    view = program.observation.view
    sums = [max((layer["size"] for layer in layers[turn::2]), default=1) for turn in (0, 1)]
    planes = 0 if view is None else view.planes
    widest = max(planes, *(layer["outputs"] for layer in layers))
    shape = program.observation.shape
    types = [layer.weight.dtype.name for layer in program.layers]
    tables = [program.bias, program.reference, program.input_scale]
    for layer in program.layers:
        tables += [layer.weight, layer.start, layer.level, layer.flipped if layer.flipped.any() else None]
    if view is not None:
        tables.append(view.background.numpy())
    return {
        "layers": layers,
        # of the layers that add weights without a factor
        "types": sorted({layer["type"] for layer in layers[0 if planes else 1 :]}),
        "neurons": first_neuron - int(np.prod(program.layers[-1].shape_spikes)),
        "view": None if view is None else _view(view),
        "planes": planes,
        "reference": None if program.reference is None else program.reference.reshape(-1).tolist(),
        "input_scale": None if program.input_scale is None else program.input_scale.reshape(-1).tolist(),
        "ranges": None if program.input_scale is None else _ranges(program.input_scale),
        "largest_input": LARGEST_INPUT,
        "bias": program.bias.tolist(),
        "scale": _number(float(np.float32(program.scale))),
        "whole": program.whole,
        "sum_type": "int32_t" if program.whole else "float",
        "input_type": "uint8_t" if program.observation.of_bytes else "float",
        "inputs": int(np.prod(shape)),
        "shape": " x ".join(map(str, shape)),
        "order": "channel, row, column" if len(shape) == 3 else "of its entries",
        "actions": len(program.bias),
        "weights": " and ".join(sorted({_described(kind) for kind in types})),
        "memory": 4 * sum(sums) + 2 * widest + 4 * (len(program.bias) + 2 * len(layers) - 1),
        "constants": sum(table.nbytes for table in tables if table is not None),
        "sums": sums,
        "widest": widest,
        "chunk": CHUNK,
        "numbers": _numbers,
    }


def _ranges(input_scale: NDArray[np.float32]) -> str:
    return ", ".join(f"{LARGEST_INPUT / scale:.3g}" for scale in input_scale.reshape(-1).tolist())


def _layer(layer: EventLayer, first_neuron: int) -> Mapping[str, Any]:
    kernel_height, kernel_width, inputs, outputs = layer.weight.shape
    _, height_in, width_in = layer.shape_in
    _, height, width = layer.shape_out
    sides = (height_in // layer.averaged, width_in // layer.averaged)
    return {
        "name": re.sub(r"\W", "_", layer.name),
        "type": TYPES[layer.weight.dtype.name],
        "weight": layer.weight.reshape(-1).tolist(),
        "level": None if layer.level is None else layer.level.reshape(-1).tolist(),
        "start": None if layer.start is None else layer.start.reshape(-1).tolist(),
        "flipped": layer.flipped.astype(int).tolist() if layer.flipped.any() else [],
        "kernel_height": kernel_height,
        "kernel_width": kernel_width,
        "inputs": inputs,
        "outputs": outputs,
        "height_in": height_in,
        "width_in": width_in,
        "height": height,
        "width": width,
        "size": outputs * height * width,
        "stride": layer.stride,
        "padding": layer.padding,
        "averaged": layer.averaged,
        "largest": layer.largest,
        # the kernel sees each input once: a stride may leave inputs over where there is one output as well
        "covered": sides == (kernel_height, kernel_width) and layer.padding == 0,
        "first_neuron": first_neuron,
    }


def _view(view: View) -> Mapping[str, Any]:
    return {
        "kind": "binary" if isinstance(view, BinaryView) else "events",
        "threshold": view.threshold,
        "frames": view.frames,
        "pixels": view.background.numel(),
        "background": view.background.flatten().tolist(),
    }


def _described(kind: str) -> str:
    return {"float32": "32-bit floats", "int8": "8 bits", "int16": "16 bits"}[kind]


def _numbers(values: Iterable[float]) -> str:
    """Return the lines of an array."""
    texts = [_number(value) for value in values]
    lines = (", ".join(texts[start : start + PER_LINE]) for start in range(0, len(texts), PER_LINE))
    return ",\n".join(f"    {line}" for line in lines)


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    # a level that every sum reaches, or none
    text = f"{min(max(value, -LARGEST_FLOAT), LARGEST_FLOAT):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _comment(text: str) -> str:
    return text.replace("*/", "* /")
