"""FP8 (e4m3) in ONNX as TensorRT-RTX takes it: nodes that quantise and dequantise (Q/DQ) before large layers.

Weights are stored in FP8, with one scale an output channel. Activations have one scale a tensor, calibrated on a run of
the program; e4m3 has as many bits for small values as for large ones, so that room above the largest costs nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from stt2v.export.flat_maps import flat_maps
from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.fp8 import FEWEST, worthwhile
from stt2v.export.reference import drawn_like
from stt2v.export.sensitivity import is_for_fp8, sensitive_layers
from stt2v.kernels.fp8 import LARGEST, SMALLEST_SCALE

ORIGIN = "pkg.torch.onnx.fx_node"  # the exporter's note of what a node was made from: "%conv2d : [num_users=1] = ..."
OUT = MappingProxyType({"Conv": 0, "MatMul": 1})  # operation -> the axis of its weight that counts channels out
KINDS = MappingProxyType({**FEWEST, torch.ops.aten.conv3d.default: FEWEST[torch.ops.aten.conv2d.default]})
HEADROOM = 4.0  # what may come is so much larger than what came


def fp8_scales(exported: ExportedProgram) -> tuple[Mapping[str, float], tuple[str, ...]]:
    """What `put_qdq` needs for a program in precision fp8, and what stays out of FP8; nothing for other programs."""
    program = flatten(exported)
    if not is_for_fp8(program):
        return {}, ()
    inputs = [torch.from_numpy(array) for array in drawn_like(exported.example_inputs[1]).values()]
    kept = sensitive_layers(flat_maps(program), inputs)
    return calibrated(program, inputs, kept), kept


@torch.no_grad()
def calibrated(
    program: FlatProgram, inputs: Sequence[Tensor], keep: Collection[str] = (), fewest: Mapping[Any, int] = KINDS
) -> Mapping[str, float]:
    """Layer -> the scale of its input, of all that gain by FP8 but those whose weights `keep` names."""
    nodes = worthwhile(program.module.graph, program.weights, fewest)
    watch = _Watch(program.module, {node.name for node in nodes if node.args[1].name not in keep})
    watch.run(*program.weights.values(), *inputs)
    return {name: max(HEADROOM * largest / LARGEST, SMALLEST_SCALE) for name, largest in watch.largest.items()}


class _Watch(fx.Interpreter):
    """Runs a program and keeps the largest value that each of some layers is given."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names, self.largest = names, dict[str, float]()

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.names:
            (x, *_), _ = self.fetch_args_kwargs_from_env(n)
            self.largest[n.name] = float(x.abs().amax())
        return super().run_node(n)


def put_qdq(model: ir.Model, scales: Mapping[str, float]) -> None:
    """Put the layers of `scales`, as `calibrated` gives them, in FP8."""
    for node in list(model.graph):
        name = node.metadata_props.get(ORIGIN, "").partition(" ")[0].removeprefix("%")
        x, weight = (*node.inputs, None, None)[:2]
        if node.op_type not in OUT or name not in scales or x is None or weight is None or weight.const_value is None:
            continue
        scale = _constant(model, f"{name}_input_scale", np.array(scales[name], _type(x)))
        zero = _constant(model, f"{name}_zero", _fp8(np.zeros((), np.float32)))
        narrow = ir.node("QuantizeLinear", [x, scale, zero])
        wide = ir.node("DequantizeLinear", [narrow.outputs[0], scale, zero])
        dequantised = _weight(model, name, weight.const_value.numpy(), OUT[node.op_type])
        model.graph.insert_before(node, [narrow, wide, dequantised])
        for made, like in ((wide, x), (dequantised, weight)):
            made.outputs[0].type, made.outputs[0].shape = like.type, like.shape
        node.replace_input_with(0, wide.outputs[0])
        node.replace_input_with(1, dequantised.outputs[0])
        if not weight.uses():
            model.graph.initializers.pop(str(weight.name))


def _weight(model: ir.Model, name: str, values: npt.NDArray[Any], axis: int) -> ir.Node:
    """What gives a weight back from FP8; its channels out lie along `axis`."""
    others = tuple(other for other in range(values.ndim) if other != axis)
    single = values.astype(np.float32)
    least = np.maximum(np.abs(single).max(others) / LARGEST, SMALLEST_SCALE)
    scale = least.astype(values.dtype)  # rounded, before it is divided by
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    narrow = _constant(model, f"{name}_weight", _fp8(single / scale.astype(np.float32).reshape(shape)))
    return ir.node("DequantizeLinear", [narrow, _constant(model, f"{name}_scale", scale)], {"axis": axis})


def _fp8(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    narrow: npt.NDArray[Any] = np.clip(values, -LARGEST, LARGEST).astype(ir.DataType.FLOAT8E4M3FN.numpy())
    return narrow


def _type(value: ir.Value) -> Any:
    assert value.dtype is not None
    return value.dtype.numpy()


def _constant(model: ir.Model, name: str, values: npt.NDArray[Any]) -> ir.Value:
    """A weight of `model` with these values."""
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(values.shape), const_value=tensor)
    model.graph.initializers.add(value)
    return value
