"""A graph in another precision. Its border stays as declared, so loops and plans know nothing of precisions."""

import copy
import functools
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from stt2v.engine.errors import UsageError
from stt2v.export.graph import Graph
from stt2v.export.step import Half, SingleStep, Step, Update

TYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "fp8": torch.bfloat16})
"""Precision -> the type of weights and of what flows between layers; in fp8 most products are narrower inside."""


def in_precision(graph: Graph, precision: str) -> Graph:
    """`graph` with the weights and the arithmetic of its network in `precision`; the graph itself is left alone.

    In a step only the network changes: preconditioning, guidance and the solver's update stay in float32, because
    errors there add up over the steps. So do single numbers such as time steps and frame rates, which networks make
    sinusoids of before they cast. In fp8 the graphs that are no steps are in fp16: they run once, and their errors
    show as they are. Raises UsageError for an unknown precision.
    """
    if precision not in TYPES:
        raise UsageError(f"precision {precision!r} cannot be captured; choose one of {', '.join(TYPES)}")
    if precision == "fp32" or isinstance(graph.module, Update):
        return graph
    return in_type(graph, TYPES[precision if isinstance(graph.module, Step | SingleStep | Half) else "fp16"])


def in_type(graph: Graph, dtype: torch.dtype) -> Graph:
    """`graph` with its network, which takes and gives what it did, in `dtype`."""
    narrowed = _narrowed(graph.module, dtype)
    if not graph.casts:
        network = _network(narrowed)
        network.register_forward_pre_hook(functools.partial(_inputs_to, dtype), with_kwargs=True)
        network.register_forward_hook(_outputs_to_float)
    return replace(graph, module=narrowed)


def _network(module: Any) -> nn.Module:
    """The network of a step, or else all of `module`."""
    step = module.one if isinstance(module, SingleStep) else module
    network: nn.Module = step.network if isinstance(step, Step | Half) else step
    return network


def _narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    # Not `deepcopy(module).to(dtype)`: that holds a second float32 copy of the weights for a while.
    with torch.no_grad():
        copies: dict[int, Any] = {id(p): nn.Parameter(p.to(dtype), requires_grad=False) for p in module.parameters()}
        copies |= {id(b): b.to(dtype) for b in module.buffers() if b.is_floating_point()}
    return copy.deepcopy(module, copies)


def _inputs_to(dtype: torch.dtype, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return tuple(_to(dtype, value) for value in args), {name: _to(dtype, value) for name, value in kwargs.items()}


def _to(dtype: torch.dtype, value: Any) -> Any:
    """Maps and tokens in `dtype`; numbers (no axis, or only one) and integers as they are."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 else value


def _outputs_to_float(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) else tuple(tensor.float() for tensor in output)
