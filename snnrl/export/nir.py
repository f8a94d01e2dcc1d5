"""A spiking chain as a graph of NIR, the Neuromorphic Intermediate Representation, which other simulators read.

Source: Pedersen et al. 2024, arXiv 2311.14641; an IF neuron fires where v > v_threshold, and is then reset to v_reset.
"""

from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np

from snnrl.errors import UserError
from snnrl.export.chain import Chain, Floats, Layer, Observation, currents
from snnrl.export.optional import optional


def to_nir(chain: Chain, name: str) -> Any:
    """Return a ``nir.NIRGraph`` of one observation, as its numbers are, to Q-values ``(K,)``.

    Neurons have the threshold they were trained with; what else is in a level, becomes their weights' bias.

    Raises:
        UserError: the package nir is missing, or NIR has no node for a part of the chain.
    """
    nir = optional("nir")
    _check(chain)
    seen, (first, *others) = chain.observation, chain.layers
    nodes = {"input": nir.Input({"input": np.array(seen.shape)})}
    if first.padding and seen.offset.any():
        # the zeros of the padding are put around shifted numbers
        nodes["shifted"] = _shifted(nir, seen)
    else:
        first = _on_numbers(first, seen)
    for layer in (first, *others):
        nodes |= _layer_nodes(nir, layer)
    nodes["output"] = nir.Output({"output": np.array(others[-1].shape_out)})
    return nir.NIRGraph(nodes, list(pairwise(nodes)), metadata=_metadata(chain, name))


def nir_bytes(graph: Any) -> bytes:
    """Return the content of a ``.nir`` file."""
    content = BytesIO()
    optional("nir").write(content, graph)
    return content.getvalue()


def _check(chain: Chain) -> None:
    if not chain.spiking:
        raise UserError("NIR has no node for the ReLUs of an ordinary network: give --T 1, or export it --to onnx")
    if chain.observation.view is not None:
        raise UserError("NIR has no node that compares frames, of which this network sees planes: export it --to onnx")
    for layer in chain.layers:
        if layer.largest > 1:
            raise UserError(f"NIR has no node for the maxima behind {layer.name}: export it --to onnx")


def _metadata(chain: Chain, name: str) -> dict[str, str | int]:
    numbers = "bytes, 0 to 255, given as they are" if chain.observation.of_bytes else "numbers, given as they are"
    return {
        "name": name,
        "producer": "snnrl",
        "timesteps": 1,
        "dt": 1,
        "input": numbers,
        "reset": "no reset matters: every decision is one timestep from v = 0",
        "fires": "v >= threshold, written as v > v_threshold with v_threshold the float32 just below",
        "output": "Q-values of one timestep",
    }


def _shifted(nir: Any, seen: Observation) -> Any:
    """Return gain * number + offset as a convolution of single pixels."""
    weight = np.diag(seen.gain.reshape(-1))[..., None, None]
    layer = Layer("shifted", weight, seen.offset.reshape(-1), seen.shape, seen.shape)
    return _weights(nir, layer)


def _on_numbers(layer: Layer, seen: Observation) -> Layer:
    """Return a first layer that takes an observation's numbers as they are."""
    assert layer.firing is not None
    nothing = np.zeros((1, *seen.shape))
    rest = currents(layer, seen.real(nothing)).numpy()[0].reshape(len(layer.bias), -1)[:, 0]
    averaged = (seen.shape[0], *(side // layer.averaged for side in seen.shape[1:]))
    gain = seen.gain if layer.weight.ndim == 4 else np.broadcast_to(seen.gain, averaged).reshape(-1)
    return replace(layer, weight=layer.weight * gain, firing=replace(layer.firing, level=layer.firing.level - rest))


def _layer_nodes(nir: Any, layer: Layer) -> dict[str, Any]:
    nodes = {}
    if layer.averaged > 1:
        size = np.array([layer.averaged] * 2)
        nodes[f"{layer.name}_average"] = nir.AvgPool2d(kernel_size=size, stride=size, padding=np.zeros(2, int))
    if layer.weight.ndim == 2 and len(layer.shape_in) > 1:
        maps = (layer.shape_in[0], *(side // layer.averaged for side in layer.shape_in[1:]))
        nodes[f"{layer.name}_flat"] = nir.Flatten({"input": np.array(maps)}, start_dim=0)
    if layer.firing is None:
        return nodes | {layer.name: _weights(nir, layer)}
    unit = layer.firing.unit.astype(np.float32)
    threshold = np.broadcast_to(_below(unit).reshape(-1, *[1] * (len(layer.shape_out) - 1)), layer.shape_out).copy()
    neurons = nir.IF(r=np.ones_like(threshold), v_threshold=threshold, v_reset=np.zeros_like(threshold))
    return nodes | {layer.name: _weights(nir, _biased(layer)), f"{layer.name}_neurons": neurons}


def _biased(layer: Layer) -> Layer:
    """Return a layer whose currents reach the threshold of its neurons where they reached their level before."""
    assert layer.firing is not None
    turn = np.where(layer.firing.flipped, -1.0, 1.0)
    level = layer.firing.level * turn
    constant = np.isinf(level)  # neurons that always fire, or never
    unit = layer.firing.unit.astype(np.float32)
    rounded = (unit - np.where(constant, unit * np.sign(level), level)).astype(np.float32)
    # rounding must not let neurons without input fire, also where a simulator fires at v_threshold
    bias: Floats = np.where(level > 0, np.minimum(rounded, _below(_below(unit))), rounded).astype(np.float64)
    kept = np.where(constant, 0.0, turn).reshape(-1, *[1] * (layer.weight.ndim - 1))
    return replace(layer, weight=layer.weight * kept, bias=bias)


def _below(values: Any) -> Any:
    return np.nextafter(values, np.zeros_like(values))


def _weights(nir: Any, layer: Layer) -> Any:
    weight, bias = layer.weight.astype(np.float32), layer.bias.astype(np.float32)
    if weight.ndim == 2:
        return nir.Affine(weight, bias)
    height, width = (side // layer.averaged for side in layer.shape_in[1:])
    return nir.Conv2d((height, width), weight, layer.stride, layer.padding, 1, 1, bias)
