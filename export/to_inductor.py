"""Lowering for PyTorch's own compiler: our kernels and FP8 in the graph, weights as arguments, then Inductor."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.fp8 import quantise
from stt2v.export.kernel_pass import put_kernels


def lower(exported: ExportedProgram, precision: str, device: str) -> tuple[FlatProgram, Mapping[str, int]]:
    """`exported` as it is to be compiled for `device`, and how often each rewrite was made."""
    program, counts = flatten(exported), {}
    if precision == "fp8":
        program, counts["fp8_linears"] = quantise(program)
    if device == "cuda":
        counts |= put_kernels(program.module)
    return program, counts


def compile_flat(program: FlatProgram, inputs: Sequence[Tensor]) -> Any:
    """The artifact of `program` for inputs like these: callable with weights and inputs, and saveable."""
    with torch.no_grad():
        return torch._inductor.standalone_compile(
            program.module, [*program.weights.values(), *inputs], dynamic_shapes="from_example_inputs"
        )
