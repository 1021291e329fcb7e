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

from stt2v.kernels.device import fetchable, has_shared_memory, packed, runs_triton
from stt2v.kernels.fp8 import TYPE


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: rows, columns (of each half) and depth (in bytes) of a tile, and how it is run."""

    rows: int = 128
    columns: int = 64
    depth: int = 128
    warps: int = 4
    stages: int = 3

    @property
    def shared_bytes(self) -> int:
        """What it takes of the shared memory of a block, at most."""
        return self.stages * (self.rows + 2 * self.columns) * self.depth


DEFAULT = Tiling()
"""Two blocks fit a multiprocessor, so that one multiplies while the other is at the gates."""
DEEP = Tiling(256, 64, 128, 8, 4)
"""For long sums, beside which the gates are short: larger tiles need less of the bandwidth of L2."""
LONG = 2048  # bytes of a row, from which on a sum is


def tiling_for(x: Tensor) -> Tiling:
    """The faster of the two on an H100 (`bench/RESULTS.md`) that a card has the shared memory for; x: [..., K]."""
    long = x.shape[-1] * x.element_size() > LONG
    return DEEP if long and has_shared_memory(x, DEEP.shared_bytes) else DEFAULT


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
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Tensor | None = None,
    scale: Tensor | None = None,
    narrow: bool = False,
) -> Tensor:
    """As `geglu_reference`, in the type of `bias`, or in FP8 if it is to be `narrow`."""
    if runs_triton(x):
        return tiled_geglu(x, weight, bias, x_scale, scale, narrow, tiling_for(x))
    return geglu_reference(x, weight, bias, x_scale, scale).to(TYPE if narrow else bias.dtype)


@geglu.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Tensor | None = None,
    scale: Tensor | None = None,
    narrow: bool = False,
) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight) // 2, dtype=TYPE if narrow else bias.dtype)


OP = torch.ops.stt2v.geglu.default


def tiled_geglu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Tensor | None,
    scale: Tensor | None,
    narrow: bool,
    tiling: Tiling,
) -> Tensor:
    """As `geglu`, on a GPU, with tiles as told."""
    flat = fetchable(x.reshape(-1, x.shape[-1]))
    (rows, depth), width = flat.shape, len(weight) // 2
    halves = fetchable(weight).view(2, width, depth)
    out = x.new_empty(rows, width, dtype=TYPE if narrow else bias.dtype)
    deep = tiling.depth // x.element_size()
    _geglu[triton.cdiv(rows, tiling.rows) * triton.cdiv(width, tiling.columns),](
        TensorDescriptor.from_tensor(flat, [tiling.rows, deep]),
        TensorDescriptor.from_tensor(halves, [2, tiling.columns, deep]),
        TensorDescriptor.from_tensor(out, [tiling.rows, tiling.columns]),
        *packed(bias, x_scale, scale), rows, width, depth,
        ROWS=tiling.rows, COLUMNS=tiling.columns, DEPTH=deep, GROUP=8,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out.reshape(*x.shape[:-1], width)


@triton.jit
def _geglu(
    x, weight, out, bias, x_scale, scale, rows, width, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of the result. Tiles go down `GROUP` rows before the next column, so that both operands stay in L2.

    The same columns of both halves of `weight` are one operand, twice as wide: the matrix units read x once for both.
    """
    across, down = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    high = tl.minimum(down - first, GROUP)
    inside = tl.program_id(0) % (GROUP * across)
    top = (first + inside % high) * ROWS
    left = inside // high * COLUMNS
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    own = column < width
    kept_bias = tl.load(bias + column, mask=own, other=0.0)  # here, so that the gates do not wait for it
    gate_bias = tl.load(bias + width + column, mask=own, other=0.0)
    if x_scale is not None:
        row_scale = tl.load(x_scale + row, mask=row < rows, other=0.0)
        kept_scale = tl.load(scale + column, mask=own, other=0.0)
        gate_scale = tl.load(scale + width + column, mask=own, other=0.0)
    both = tl.zeros([ROWS, 2 * COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        halves = weight.load([0, left, start]).reshape(2 * COLUMNS, DEPTH)
        both = tl.dot(x.load([top, start]), halves.T, both, input_precision="ieee")
    kept, gate = tl.split(both.reshape(ROWS, 2, COLUMNS).permute(0, 2, 1))  # a thread has both: nothing moves
    if x_scale is not None:
        kept *= row_scale[:, None] * kept_scale[None, :]
        gate *= row_scale[:, None] * gate_scale[None, :]
    kept += kept_bias.to(tl.float32)[None, :]
    gate += gate_bias.to(tl.float32)[None, :]
    out.store([top, left], (kept * _gelu(gate)).to(out.dtype))


@triton.jit
def _gelu(x):
    """max(x, 0) - |x| Phi(-|x|), within 7e-7 of x Phi(x): log2 Phi(-|x|) as a polynomial, of which 2 is raised to.

    Its coefficients make the largest error of the whole least (Lawson 1961). It has half the instructions of erf.
    """
    size = tl.abs(x)
    power = -0.0004769741922302842 * size + 0.007113307803004912
    power = power * size - 0.05190950390774554
    power = power * size - 0.4598874603209019
    power = power * size - 1.1508465120745686
    power = power * size - 1.0000265570039997
    return tl.maximum(x, 0.0) - size * tl.exp2(power)
