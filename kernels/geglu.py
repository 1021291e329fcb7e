"""A linear layer and the gated unit after it (GEGLU, Shazeer 2020) in one kernel.

The layer's output, twice as wide as what is kept of it, never goes through memory.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from stt2v.kernels.device import runs_triton


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: rows, columns (of each half) and depth of a tile, and how it is run."""

    rows: int = 128
    columns: int = 64
    depth: int = 64
    warps: int = 4
    stages: int = 3


DEFAULT = Tiling()


def geglu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: [..., K]; weight: [2 D, K], the gates' rows last; bias: [2 D] -> [..., D]."""
    kept, gate = functional.linear(x, weight, bias).chunk(2, -1)
    return kept * functional.gelu(gate)


@torch.library.custom_op("stt2v::geglu", mutates_args=())
def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `geglu_reference`."""
    return tiled_geglu(x, weight, bias, DEFAULT) if runs_triton(x) else geglu_reference(x, weight, bias)


@geglu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2)


OP = torch.ops.stt2v.geglu.default


def tiled_geglu(x: Tensor, weight: Tensor, bias: Tensor, tiling: Tiling) -> Tensor:
    """As `geglu_reference`, on a GPU, with tiles as told."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    (rows, depth), width = flat.shape, len(weight) // 2
    out = x.new_empty(rows, width)
    grid = (triton.cdiv(rows, tiling.rows) * triton.cdiv(width, tiling.columns),)
    _geglu[grid](
        flat, weight.contiguous(), bias, out, rows, width, depth,
        ROWS=tiling.rows, COLUMNS=tiling.columns, DEPTH=tiling.depth, GROUP=8,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out.reshape(*x.shape[:-1], width)


@triton.jit
def _geglu(
    x, weight, bias, out, rows, width, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of the result. Tiles go down `GROUP` rows before the next column, so that both operands stay in L2."""
    across, down = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    high = tl.minimum(down - first, GROUP)
    inside = tl.program_id(0) % (GROUP * across)
    row = (first + inside % high) * ROWS + tl.arange(0, ROWS)
    column = inside // high * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    read_row, read_column = row % rows, column % width  # reading any row is cheaper than masking in the loop
    x_tile = x + read_row.to(tl.int64)[:, None] * depth + k[None, :]
    kept_tile = weight + read_column[None, :] * depth + k[:, None]
    gate_tile = kept_tile + width * depth
    kept = tl.zeros([ROWS, COLUMNS], tl.float32)
    gate = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        part = tl.load(x_tile, mask=k[None, :] < left, other=0.0)
        kept = tl.dot(part, tl.load(kept_tile, mask=k[:, None] < left, other=0.0), kept, input_precision="ieee")
        gate = tl.dot(part, tl.load(gate_tile, mask=k[:, None] < left, other=0.0), gate, input_precision="ieee")
        x_tile += DEPTH
        kept_tile += DEPTH
        gate_tile += DEPTH
    kept += tl.load(bias + read_column).to(tl.float32)[None, :]
    gate += tl.load(bias + width + read_column).to(tl.float32)[None, :]
    gate = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(
        out + place, (kept * gate).to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < width)[None, :]
    )
