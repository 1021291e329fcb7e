"""The reference of a graph: what its torch module gives in float32, or in the nearest to it that memory allows."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from stt2v.engine.backends.base import Value
from stt2v.engine.errors import ExportError
from stt2v.engine.reference import Reference, drawn_input
from stt2v.engine.spec import EngineSpec
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph, tensor_spec
from stt2v.export.precision import in_precision
from stt2v.export.step import HalvesApart, Step

FULL, HALF = "fp32", "fp16 with fp32 norms"
NORMS = (nn.GroupNorm, nn.LayerNorm)
Inputs = dict[str, npt.NDArray[Any]]


def seeded_inputs(graph: Graph, seed: int = 0) -> Inputs:
    """Inputs for `graph`."""
    return drawn_like(graph.inputs, seed)


def drawn_like(examples: Mapping[str, Tensor], seed: int = 0) -> Inputs:
    """Inputs for a graph that takes such. Integers and booleans mean something (tokens, indices), so they are kept."""
    return {
        name: drawn_input(tensor_spec(name, example), seed)
        if example.is_floating_point()
        else example.detach().cpu().numpy()
        for name, example in examples.items()
    }


def reference_of(graph: Graph, spec: EngineSpec, seed: int = 0, activation_bytes: int = 0) -> Reference:
    """What the module of `graph`, which is in float32, gives for seeded inputs; the guidance halves of a step apart.

    On a card it is tried whole, then layer by layer, then both with the network in half precision and its norms in
    float32; without a card it runs on the processor, where `activation_bytes` says what float32 takes beside weights.
    Raises ExportError when memory is too small for any of it.
    """
    inputs = seeded_inputs(graph, seed)
    on_card = torch.cuda.is_available()
    for made_in in (FULL, HALF):
        for layerwise in (False, True) if on_card else (False,):
            try:
                if not on_card:
                    _check_memory(graph, activation_bytes, made_in)
                outputs = _outputs(graph if made_in == FULL else in_half(graph), spec, inputs, on_card, layerwise)
            except (torch.OutOfMemoryError, MemoryError):
                continue
            return Reference.of(inputs, outputs, seed, made_in)
    raise ExportError(f"graph {graph.name!r}: memory is too small for its reference, in half precision too; free some")


def in_half(graph: Graph) -> Graph:
    """`graph` in half precision but for its norms, in which most of the error of half precision comes about."""
    halved = in_precision(graph, "fp16")
    for part in halved.module.modules():
        if isinstance(part, NORMS):
            part.float()
            part.register_forward_pre_hook(lambda module, args: tuple(value.float() for value in args))
            part.register_forward_hook(lambda module, args, output: output.half())
    return halved


def _outputs(graph: Graph, spec: EngineSpec, inputs: Inputs, on_card: bool, layerwise: bool) -> dict[str, Value]:
    if isinstance(graph.module, Step) and graph.module.paired is not None:
        graph = replace(graph, module=HalvesApart(graph.module))
    device = "cuda" if on_card else "cpu"
    # TensorFloat-32, which convolutions use on a card if they may, has the error of half precision.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, placed(graph.module, device, layerwise), EagerEngine(graph, spec, device) as engine:
        return engine.run(inputs)


@contextmanager
def placed(module: nn.Module, device: str, layerwise: bool) -> Iterator[None]:
    """`module` ready to compute on `device`: all of it there, or each layer's weights while it runs only."""
    if not layerwise:
        module.to(device)
    hooks = [hook for part in module.modules() for hook in _visits(part, device)] if layerwise else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        module.to("cpu")
        if device == "cuda":
            torch.cuda.empty_cache()


def _visits(part: nn.Module, device: str) -> Iterator[Any]:
    """Hooks that take the weights of this part alone to `device` and back."""

    def move(place: str) -> None:
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            tensor.data = tensor.data.to(place)

    yield part.register_forward_pre_hook(lambda module, args: move(device))
    yield part.register_forward_hook(lambda module, args, output: move("cpu"))


def _check_memory(graph: Graph, activation_bytes: int, made_in: str) -> None:
    """Raise MemoryError where the system would rather end the process. In half precision a copy is made."""
    weights = sum(tensor.nbytes for tensor in graph.module.parameters())
    needed = activation_bytes if made_in == FULL else weights // 2 + activation_bytes // 2
    if needed > _available():
        raise MemoryError


def _available() -> int:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return 1024 * int(found[1]) if found else 0
