"""ONNX from an exported program, with the weights in a file that the engines of a set share."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from stt2v.engine.errors import ExportError
from stt2v.export.capture import Program
from stt2v.export.qdq import put_qdq
from stt2v.export.quiet import quiet
from stt2v.export.weight_file import WeightFile

OPSET = 23  # from here on attention is one operation, which backends fuse
SMALL = 1024  # bytes; shapes, axes and the like stay inside, because shape inference reads them


def onnx_from_program(program: Program, scales: Mapping[str, float] = MappingProxyType({})) -> ir.Model:
    """The program in ONNX, inputs and outputs named as in its spec; the layers of `scales` in FP8 (`export/qdq.py`).

    Raises ExportError that names the graph.
    """
    names = [tensor.name for tensor in program.spec.outputs]
    try:
        with quiet("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir"):
            converted = torch.onnx.export(
                program.exported,
                (),
                dynamo=True,
                opset_version=OPSET,
                optimize=True,  # TensorRT-RTX rejects the sequence operations that are left otherwise
                verify=False,
                verbose=False,
                output_names=names,
            )
    except Exception as exc:  # the exporter lets the errors of every operation's converter through
        raise ExportError(
            f"graph {program.spec.name!r}: torch.onnx failed: {_root(exc)}; `--debug` shows where"
        ) from exc
    if converted is None:
        raise ExportError(f"graph {program.spec.name!r}: torch.onnx returned nothing; expected a model")
    put_qdq(converted.model, scales)
    ClearMetadataAndDocStringPass()(converted.model)  # source paths of this machine, and most of a small file
    _rename_doubles(converted.model)
    return converted.model


def _rename_doubles(model: ir.Model) -> None:
    """Give inner values another name where the exporter gave them that of an output."""
    outputs = {value.name for value in model.graph.outputs}
    inner = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in [*model.graph.initializers.values(), *inner]:
        if value.name in outputs and not value.is_graph_output():
            value.name = f"{value.name}_inner"


def _root(error: BaseException) -> str:
    """The first line of the error that began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0] or type(error).__name__


def halve_weights(model: ir.Model) -> None:
    """Keep in float16 what loses nothing by it, such as weights that were published so; what computes stays float32.

    The runtime folds the casts when it loads a model, so that only the file is smaller.
    """
    casts = []
    for name, value in list(model.graph.initializers.items()):
        half = _half(value.const_value)
        if half is None:
            continue
        kept = ir.Value(name=f"{name}_half", type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape)
        kept.const_value = half
        cast = ir.node("Cast", [kept], {"to": ir.DataType.FLOAT})
        cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
        model.graph.initializers.pop(name)
        value.replace_all_uses_with(cast.outputs[0])
        cast.outputs[0].name = name
        model.graph.initializers.add(kept)
        casts.append(cast)
    if casts:
        model.graph.insert_before(model.graph[0], casts)


def _half(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    """The tensor in float16; None where that is nothing else, too little to matter, or would change it."""
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.nbytes <= SMALL:
        return None
    single = tensor.numpy()
    with np.errstate(over="ignore"):
        half = single.astype(np.float16)
    return ir.tensor(half, name=f"{tensor.name}_half") if np.array_equal(half.astype(np.float32), single) else None


def save_onnx(model: ir.Model, path: Path, weights: WeightFile) -> int:
    """Write `model` to `path`, its large tensors to `weights` beside it; returns the bytes of all its weights."""
    total = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None:
            raise ExportError(f"weight {value.name!r} of {path.name} has no value; expected a captured program")
        total += tensor.nbytes
        if tensor.nbytes > SMALL:
            value.const_value = _external(tensor, str(value.name), weights)
    weights.flush()
    ir.save(model, path)
    return total


def _external(tensor: ir.TensorProtocol, name: str, weights: WeightFile) -> ir.ExternalTensor:
    offset, length = weights.place(tensor.numpy())
    return ir.ExternalTensor(
        weights.path.name,
        offset,
        length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        base_dir=weights.path.parent,
    )
