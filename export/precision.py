"""A graph in another precision. Its border stays as declared, so loops and plans know nothing of precisions."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stt2v.engine.errors import UsageError
from stt2v.export.graph import Graph
from stt2v.export.step import Half, Step

PRECISIONS = ("fp32", "fp16")


def in_precision(graph: Graph, precision: str) -> Graph:
    """`graph` with the weights and the arithmetic of its network in `precision`; the graph itself is left alone.

    In a step only the network changes: preconditioning, guidance and the solver's update stay in float32, because
    errors there add up over the steps. Raises UsageError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} cannot be captured; choose one of {', '.join(PRECISIONS)}")
    return graph if precision == "fp32" else replace(graph, module=_halved(graph.module))


def _halved(module: nn.Module) -> nn.Module:
    # Not `deepcopy(module).half()`: that holds a second float32 copy of the weights for a while.
    with torch.no_grad():
        halves: dict[int, Any] = {id(p): nn.Parameter(p.half(), requires_grad=False) for p in module.parameters()}
        halves |= {id(b): b.half() for b in module.buffers() if b.is_floating_point()}
    copied = copy.deepcopy(module, halves)
    network = copied.network if isinstance(copied, Step | Half) else copied
    network.register_forward_pre_hook(_inputs_to_half, with_kwargs=True)
    network.register_forward_hook(_outputs_to_float)
    return copied


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _inputs_to_half(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    cast = tuple(_cast(value, torch.float16) for value in args)
    return cast, {name: _cast(value, torch.float16) for name, value in kwargs.items()}


def _outputs_to_float(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor):
        return _cast(output, torch.float32)
    return tuple(_cast(value, torch.float32) for value in output)
