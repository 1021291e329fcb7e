"""A linear layer and the gated unit after it (GEGLU, Shazeer 2020) in one kernel, in half precision or FP8 (e4m3).

The layer's output, twice as wide as what is kept of it, never goes through memory. Hopper's copy engine fetches tiles.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from stt2v.kernels.device import runs_triton


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: rows, columns (of each half) and depth (in bytes) of a tile, and how it is run."""

    rows: int = 128
    columns: int = 64
    depth: int = 128
    warps: int = 4
    stages: int = 3


DEFAULT = Tiling()


def geglu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, x_scale: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """x: [..., K]; weight: [2 D, K], the gates' rows last; bias: [2 D] -> [..., D].

    In FP8 x is [M, K], and what its rows and those of weight are multiplied by is x_scale: [M, 1], scale: [1, 2 D].
    """
    if x_scale is not None and scale is not None:
        x, weight, bias = x.to(scale.dtype) * x_scale, weight.to(scale.dtype) * scale.T, bias.to(scale.dtype)
    kept, gate = functional.linear(x, weight, bias).chunk(2, -1)
    return kept * functional.gelu(gate)


@torch.library.custom_op("stt2v::geglu", mutates_args=())
def geglu(
    x: Tensor, weight: Tensor, bias: Tensor, x_scale: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """As `geglu_reference`, in the type of `bias`."""
    if runs_triton(x):
        return tiled_geglu(x, weight, bias, x_scale, scale, DEFAULT)
    return geglu_reference(x, weight, bias, x_scale, scale).to(bias.dtype)


@geglu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, x_scale: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2, dtype=bias.dtype)


OP = torch.ops.stt2v.geglu.default


def tiled_geglu(
    x: Tensor, weight: Tensor, bias: Tensor, x_scale: Tensor | None, scale: Tensor | None, tiling: Tiling
) -> Tensor:
    """As `geglu`, on a GPU, with tiles as told."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    (rows, depth), width = flat.shape, len(weight) // 2
    out = x.new_empty(rows, width, dtype=bias.dtype)
    deep = tiling.depth // x.element_size()
    _geglu[triton.cdiv(rows, tiling.rows) * triton.cdiv(width, tiling.columns),](
        TensorDescriptor.from_tensor(flat, [tiling.rows, deep]),
        TensorDescriptor.from_tensor(weight.contiguous(), [tiling.columns, deep]),
        TensorDescriptor.from_tensor(out, [tiling.rows, tiling.columns]),
        bias, x_scale, scale, rows, width, depth,
        ROWS=tiling.rows, COLUMNS=tiling.columns, DEPTH=deep, GROUP=8,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out.reshape(*x.shape[:-1], width)


@triton.jit
def _geglu(
    x, weight, out, bias, x_scale, scale, rows, width, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of the result. Tiles go down `GROUP` rows before the next column, so that both operands stay in L2."""
    across, down = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    high = tl.minimum(down - first, GROUP)
    inside = tl.program_id(0) % (GROUP * across)
    top = (first + inside % high) * ROWS
    left = inside // high * COLUMNS
    kept = tl.zeros([ROWS, COLUMNS], tl.float32)
    gate = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        part = x.load([top, start])
        kept = tl.dot(part, weight.load([left, start]).T, kept, input_precision="ieee")
        gate = tl.dot(part, weight.load([width + left, start]).T, gate, input_precision="ieee")
    column = left + tl.arange(0, COLUMNS)
    own = column < width
    if x_scale is not None:
        row = top + tl.arange(0, ROWS)
        row_scale = tl.load(x_scale + row, mask=row < rows, other=0.0)[:, None]
        kept *= row_scale * tl.load(scale + column, mask=own, other=0.0)[None, :]
        gate *= row_scale * tl.load(scale + width + column, mask=own, other=0.0)[None, :]
    kept += tl.load(bias + column, mask=own, other=0.0).to(tl.float32)[None, :]
    gate += tl.load(bias + width + column, mask=own, other=0.0).to(tl.float32)[None, :]
    gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    out.store([top, left], (kept * gate).to(out.dtype))
