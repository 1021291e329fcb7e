"""Capture: a graph becomes an exported program of plain ATen operations, the one source of every backend."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from stt2v.engine.errors import ExportError
from stt2v.engine.spec import EngineSpec
from stt2v.export.graph import Graph
from stt2v.export.quiet import quiet


@dataclass(frozen=True)
class Program:
    """A captured graph: what to compile, and its border.

    `graph_hash` is of the structure alone and `weights_hash` of the numbers alone; both are the same in every process.
    """

    exported: ExportedProgram
    spec: EngineSpec
    graph_hash: str
    weights_hash: str


def program_from_graph(graph: Graph) -> Program:
    """Capture `graph` with its fixed shapes. Raises ExportError that names the graph when it cannot be traced."""
    exported = exported_from_graph(graph)
    spec = graph.spec(_outputs(exported))
    return Program(exported, spec, _graph_hash(exported, spec), _weights_hash(exported))


def exported_from_graph(graph: Graph) -> ExportedProgram:
    """As `program_from_graph`, without looking at the weights, which may be on any device."""
    # torch.export takes one tensor given under two names for one input, so every example is made a tensor of its own.
    inputs = {name: tensor.clone() for name, tensor in graph.inputs.items()}
    try:
        with torch.no_grad(), quiet("torch.export"):
            exported = torch.export.export(graph.module.eval(), (), kwargs=inputs, strict=False)
    except Exception as exc:  # tracing runs the module's own code, which may raise anything
        reason = str(exc).strip().split("\n")[0] or type(exc).__name__
        raise ExportError(f"graph {graph.name!r}: torch.export failed: {reason}; `--debug` shows where") from exc
    if tuple(exported.graph_signature.user_inputs) != tuple(inputs):
        raise ExportError(
            f"graph {graph.name!r}: captured inputs {list(exported.graph_signature.user_inputs)}, "
            f"declared {list(inputs)}; declare tensors only, by the names in forward"
        )
    return exported


def _outputs(exported: ExportedProgram) -> tuple[Tensor, ...]:
    """Fake tensors of the shapes and types that the program returns."""
    return tuple(node.meta["val"] for node in exported.graph.output_node().args[0])


def _graph_hash(exported: ExportedProgram, spec: EngineSpec) -> str:
    digest = hashlib.sha256(repr(spec).encode())
    for line in _lines(exported):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _lines(exported: ExportedProgram) -> Iterator[str]:
    """The operations with their arguments and shapes, and which weight each placeholder is."""
    for spec in exported.graph_signature.input_specs:
        yield f"{spec.arg} {spec.kind} {spec.target}"
    for path, module in exported.graph_module.named_modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                value = node.meta.get("val")
                border = (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else ""
                yield f"{path} {node.op} {node.name} {node.target} {node.args} {node.kwargs} {border}"


def _weights_hash(exported: ExportedProgram) -> str:
    digest = hashlib.sha256()
    tensors = {**exported.state_dict, **exported.constants}
    for name in sorted(tensors):
        tensor = tensors[name]
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
