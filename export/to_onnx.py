"""ONNX from an exported program, with the weights in a file that the engines of a set share."""

from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from stt2v.engine.errors import ExportError
from stt2v.export.capture import Program
from stt2v.export.quiet import quiet
from stt2v.export.weight_file import WeightFile

OPSET = 23  # from here on attention is one operation, which backends fuse
SMALL = 1024  # bytes; shapes, axes and the like stay inside, because shape inference reads them


def onnx_from_program(program: Program) -> ir.Model:
    """The program in ONNX, inputs and outputs named as in its spec. Raises ExportError that names the graph."""
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
