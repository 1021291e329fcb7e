"""A graph in another precision. Its border stays as declared, so loops and plans know nothing of precisions."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stt2v.engine.errors import UsageError
from stt2v.export.graph import Graph
from stt2v.export.step import Half, Step, Update

PRECISIONS = ("fp32", "fp16")


def in_precision(graph: Graph, precision: str) -> Graph:
    """`graph` with the weights and the arithmetic of its network in `precision`; the graph itself is left alone.

    In a step only the network changes: preconditioning, guidance and the solver's update stay in float32, because
    errors there add up over the steps. So do single numbers such as time steps and frame rates, which networks make
    sinusoids of before they cast. Raises UsageError for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} cannot be captured; choose one of {', '.join(PRECISIONS)}")
    if precision == "fp32" or isinstance(graph.module, Update):
        return graph
    halved = _halved(graph.module)
    if not graph.casts:
        network = halved.network if isinstance(halved, Step | Half) else halved
        network.register_forward_pre_hook(_inputs_to_half, with_kwargs=True)
        network.register_forward_hook(_outputs_to_float)
    return replace(graph, module=halved)


def _halved(module: nn.Module) -> nn.Module:
    # Not `deepcopy(module).half()`: that holds a second float32 copy of the weights for a while.
    with torch.no_grad():
        halves: dict[int, Any] = {id(p): nn.Parameter(p.half(), requires_grad=False) for p in module.parameters()}
        halves |= {id(b): b.half() for b in module.buffers() if b.is_floating_point()}
    return copy.deepcopy(module, halves)


def _inputs_to_half(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return tuple(map(_to_half, args)), {name: _to_half(value) for name, value in kwargs.items()}


def _to_half(value: Any) -> Any:
    """Maps and tokens in half precision; numbers (no axis, or only one) and integers as they are."""
    return value.half() if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 else value


def _outputs_to_float(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else tuple(tensor.float() for tensor in output)
