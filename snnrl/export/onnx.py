"""A chain as an ONNX model: the layers' spikes, Q-values and the action of a batch of observations, in float32."""

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnrl.errors import UserError
from snnrl.export.chain import Chain, Firing, Layer, Observation
from snnrl.export.optional import optional
from snnrl.networks import View
from snnrl.networks.views import BinaryView, EventView

OPSET = 17
IR_VERSION = 8
"""The version of the file format that came with the operator set."""
BATCH = "batch"


def to_onnx(chain: Chain, name: str) -> bytes:
    """Return a model of ``observation`` ``(batch, ...)`` to ``q_values`` ``(batch, K)`` and ``action`` ``(batch,)``.

    The model of a spiking chain has ``spikes_LAYER`` ``(batch,)`` too, how many neurons of a layer fired.

    Raises:
        UserError: the package onnx is missing, or the view is none of ours.
    """
    onnx = optional("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = _Graph(onnx)
    seen = chain.observation
    values = graph.planes(seen.view, seen) if seen.view is not None else graph.real(seen)
    outputs = []
    for layer in chain.layers:
        values = graph.currents(layer, values)
        if layer.firing is not None:
            values = graph.spikes(layer, layer.firing, values)
            outputs.append(helper.make_tensor_value_info(f"spikes_{layer.name}", kinds.INT64, [BATCH]))
        elif layer.rectified:
            values = graph.add("Relu", values, result=f"{layer.name}.rectified")
    graph.add("Identity", values, result="q_values")
    graph.add("ArgMax", "q_values", result="action", axis=1, keepdims=0)
    outputs.insert(0, helper.make_tensor_value_info("q_values", kinds.FLOAT, [BATCH, len(chain.layers[-1].bias)]))
    outputs.insert(1, helper.make_tensor_value_info("action", kinds.INT64, [BATCH]))
    kind = kinds.UINT8 if seen.of_bytes else kinds.FLOAT
    inputs = [helper.make_tensor_value_info("observation", kind, [BATCH, *seen.shape])]
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="snnrl",
        producer_version=version("snnrl"),
        doc_string=_description(chain, name),
    )
    if chain.spiking:
        helper.set_model_props(model, {"T": "1"})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _description(chain: Chain, name: str) -> str:
    if not chain.spiking:
        return f"{name}: an ordinary network."
    return (
        f"{name}: a spiking network that decides in one timestep (T = 1). Its neurons are comparisons: LAYER.spikes "
        "is 1 where LAYER.currents reaches LAYER.level, which holds bias, batch-norm and threshold."
    )


class _Graph:
    """Nodes and constants as they are added; every value has a name that tells its layer."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, result: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [result], name=result, **attributes))
        return result

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def cast(self, values: str, kind: str, result: str) -> str:
        """Add a cast to a kind of number of ONNX."""
        return self.add("Cast", values, result=result, to=getattr(self.onnx.TensorProto, kind))

    def real(self, seen: Observation) -> str:
        """Add gain * observation + offset."""
        values = self.cast("observation", "FLOAT", "input.cast") if seen.of_bytes else "observation"
        if (seen.gain != 1).any():
            gain = self.constant("input.gain", seen.gain.astype(np.float32))
            values = self.add("Mul", values, gain, result="input.scaled")
        if (seen.offset != 0).any():
            offset = self.constant("input.offset", seen.offset.astype(np.float32))
            values = self.add("Add", values, offset, result="input.shifted")
        return values

    def planes(self, view: View, seen: Observation) -> str:
        """Add the comparisons that make planes of 0 and 1 of frames."""
        frames = self.cast("observation", "INT32", "input.frames")
        match view:
            case BinaryView():
                planes = self._stands_out(view, frames)
            case EventView():
                last = seen.shape[0]
                newest = self._frames(frames, last - 1, last, "input.newest")
                later, earlier = (
                    self._frames(frames, first, first + last - 1, f"input.{part}")
                    for first, part in ((1, "later"), (0, "earlier"))
                )
                change = self.add("Sub", later, earlier, result="input.change")
                parts = [self._stands_out(view, newest)]
                for operator, limit, part in (("Greater", 1, "brighter"), ("Less", -1, "darker")):
                    level = self.constant(f"input.{part}.level", np.array(limit * view.threshold, np.int32))
                    parts.append(self.add(operator, change, level, result=f"input.{part}"))
                planes = self.add("Concat", *parts, result="input.planes", axis=1)
            case _:
                raise UserError(f"a {type(view).__name__} cannot be exported: binary and events can")
        return self.cast(planes, "FLOAT", "input.cast")

    def _stands_out(self, view: View, frames: str) -> str:
        background = self.constant("input.background", view.background.cpu().numpy().astype(np.int32))
        change = self.add("Sub", frames, background, result="input.foreground")
        size = self.add("Abs", change, result="input.foreground.size")
        level = self.constant("input.threshold", np.array(view.threshold, np.int32))
        return self.add("Greater", size, level, result="input.stands_out")

    def _frames(self, frames: str, first: int, end: int, result: str) -> str:
        bounds = [
            self.constant(f"{result}.{part}", np.array([value]))
            for part, value in (("first", first), ("end", end), ("axis", 1))
        ]
        return self.add("Slice", frames, *bounds, result=result)

    def currents(self, layer: Layer, values: str) -> str:
        """Add a layer's sums, averages before and maxima behind them."""
        if layer.averaged > 1:
            values = self._pool("AveragePool", layer.averaged, values, f"{layer.name}.averaged")
        arguments = [self.constant(f"{layer.name}.weight", layer.weight.astype(np.float32))]
        if layer.bias.any():
            arguments.append(self.constant(f"{layer.name}.bias", layer.bias.astype(np.float32)))
        result = f"{layer.name}.currents" if layer.largest == 1 else f"{layer.name}.sums"
        if layer.weight.ndim == 4:
            strides, pads = [layer.stride] * 2, [layer.padding] * 4
            kernel = list(layer.weight.shape[2:])
            self.add("Conv", values, *arguments, result=result, kernel_shape=kernel, strides=strides, pads=pads)
        else:
            if len(layer.shape_in) > 1:
                values = self.add("Flatten", values, result=f"{layer.name}.flat", axis=1)
            self.add("Gemm", values, *arguments, result=result, transB=1)
        if layer.largest == 1:
            return result
        return self._pool("MaxPool", layer.largest, result, f"{layer.name}.currents")

    def _pool(self, operator: str, size: int, values: str, result: str) -> str:
        return self.add(operator, values, result=result, kernel_shape=[size] * 2, strides=[size] * 2)

    def spikes(self, layer: Layer, firing: Firing, currents: str) -> str:
        """Add the comparisons of a layer and how many of its neurons fire."""
        sides = [1] * (len(layer.shape_out) - 1)
        sign = np.where(firing.flipped, -1.0, 1.0)
        if firing.flipped.any():
            turn = self.constant(f"{layer.name}.sign", sign.astype(np.float32).reshape(-1, *sides))
            currents = self.add("Mul", currents, turn, result=f"{layer.name}.turned")
        level = self.constant(f"{layer.name}.level", (firing.level * sign).astype(np.float32).reshape(-1, *sides))
        fired = self.add("GreaterOrEqual", currents, level, result=f"{layer.name}.fired")
        spikes = self.cast(fired, "FLOAT", f"{layer.name}.spikes")
        axes = self.constant(f"{layer.name}.axes", np.arange(1, len(sides) + 2))
        total = self.add("ReduceSum", spikes, axes, result=f"{layer.name}.count", keepdims=0)
        self.cast(total, "INT64", f"spikes_{layer.name}")
        return spikes
