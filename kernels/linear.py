"""Linear layers whose result is added to a residual as it is written, in half precision or FP8 (e4m3).

Two layers with one result are one sum, `x weight^T + more more_weight^T`: what either gives never goes through memory.
Rows of pixels and rows of frames may lie in either order, of which each operand has its own: nothing is transposed in
memory either. Hopper's copy engine fetches tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from stt2v.kernels.device import fetchable, packed, runs_triton


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: rows, columns and depth (in bytes) of a tile, and how it is run.

    A tile has `side` columns more, so that it may have 160 or 320, which powers of two are not.
    """

    rows: int = 128
    columns: int = 128
    side: int = 32
    depth: int = 128
    warps: int = 4
    stages: int = 3


DEFAULT = Tiling()
GRANULE = 16  # columns come in multiples: the copy engine counts in 16 bytes


def linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    scale: Tensor | None = None,
    more: Tensor | None = None,
    more_weight: Tensor | None = None,
) -> Tensor:
    """residual + x weight^T + more more_weight^T + bias; in FP8 weight's rows are multiplied by scale.

    x: [B, F, P, K]; weight: [N, K]; bias, scale: [N]; residual: [B, F, P, N]; more: [B, F, P, L]; more_weight: [N, L]
    -> [B, F, P, N].
    """
    if scale is not None:
        x, weight = x.to(scale.dtype), weight.to(scale.dtype) * scale[:, None]
    out = residual + functional.linear(x, weight, bias.to(x.dtype))
    return out if more is None or more_weight is None else out + functional.linear(more, more_weight)


@torch.library.custom_op("stt2v::linear", mutates_args=())
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    scale: Tensor | None = None,
    more: Tensor | None = None,
    more_weight: Tensor | None = None,
) -> Tensor:
    """As `linear_reference`, in the type of `residual`."""
    if runs_triton(x):
        return tiled_linear(x, weight, bias, residual, scale, more, more_weight)
    return linear_reference(x, weight, bias, residual, scale, more, more_weight).to(residual.dtype).contiguous()


@linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    scale: Tensor | None = None,
    more: Tensor | None = None,
    more_weight: Tensor | None = None,
) -> Tensor:
    return residual.new_empty(residual.shape)


OP = torch.ops.stt2v.linear.default


def tiled_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    scale: Tensor | None,
    more: Tensor | None,
    more_weight: Tensor | None,
    tiling: Tiling = DEFAULT,
) -> Tensor:
    """As `linear`, on a GPU, with tiles as told."""
    residual = fetchable(residual)
    out = torch.empty_like(residual)
    clips, frames, pixels, columns = out.shape
    parts, across = (tiling.columns, tiling.side), triton.cdiv(pixels, tiling.rows)
    depth, more_depth = (tiling.depth // (each if each is not None else x).element_size() for each in (x, more))
    _linear[clips * frames * across * triton.cdiv(columns, sum(parts)),](
        *_rows(x, tiling.rows, depth), *_columns(weight, parts, depth),
        *_rows(more, tiling.rows, more_depth), *_columns(more_weight, parts, more_depth),
        *_boxes(residual, tiling.rows, parts), *_boxes(out, tiling.rows, parts),
        *packed(bias, scale), frames, across, columns, x.shape[3], 0 if more is None else more.shape[3],
        ROWS=tiling.rows, COLUMNS=tiling.columns, SIDE=tiling.side, DEPTH=depth, MORE_DEPTH=more_depth,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out


def _rows(tensor: Tensor | None, rows: int, depth: int) -> tuple[TensorDescriptor | None, int, int, int]:
    """What fetches rows of pixels of [B, F, P, K], and how far clips, frames and pixels lie apart.

    It sees a matrix in whose rows the frames of a pixel lie side by side, or of a pixel of a frame each: the matrix
    units want operands that were fetched as matrices.
    """
    if tensor is None:
        return None, 0, 0, 0
    turned = tensor.transpose(1, 2)
    laid = fetchable(turned).transpose(1, 2) if turned.is_contiguous() else fetchable(tensor)
    clip, frame, pixel, _ = laid.stride()
    matrix = laid.as_strided((laid.numel() // pixel, pixel), (pixel, 1))
    return TensorDescriptor.from_tensor(matrix, [rows, depth]), clip, frame, pixel


def _columns(weight: Tensor | None, parts: Sequence[int], depth: int) -> list[TensorDescriptor | None]:
    """What fetches the columns of a tile, in its two parts, from [N, K]."""
    if weight is None:
        return [None, None]
    rows = fetchable(weight)
    return [TensorDescriptor.from_tensor(rows, [part, depth]) if part else None for part in parts]


def _boxes(tensor: Tensor, rows: int, parts: Sequence[int]) -> list[TensorDescriptor | None]:
    """What fetches or stores a tile of [B, F, P, N], in its two parts; what lies past the last pixel is left out."""
    return [TensorDescriptor.from_tensor(tensor, [1, 1, rows, part]) if part else None for part in parts]


@triton.jit
def _linear(
    x, x_clip, x_frame, x_pixel, weight, side_weight,
    more, more_clip, more_frame, more_pixel, more_weight, more_side_weight,
    residual, side_residual, out, side_out, bias, scale, frames, across, columns, depth, more_depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIDE: tl.constexpr, DEPTH: tl.constexpr, MORE_DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile: pixels of a frame. Tiles of the same rows follow each other, then frames, which keeps them in L2.

    Past the last row of a frame, or the last column of x, other rows are seen: the ones are not written, and the
    others meet zeros of the weight.
    """
    parts = tl.cdiv(columns, COLUMNS + SIDE)
    left = tl.program_id(0) % parts * (COLUMNS + SIDE)
    place = tl.program_id(0) // parts
    frame = place % frames
    top = place // frames % across * ROWS
    clip = place // frames // across
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    if SIDE:
        side = tl.zeros([ROWS, SIDE], tl.float32)
    first = clip.to(tl.int64) * x_clip + frame.to(tl.int64) * x_frame
    row, column = (first // x_pixel).to(tl.int32) + top, (first % x_pixel).to(tl.int32)
    for start in range(0, depth, DEPTH):
        rows = x.load([row, column + start])
        total = tl.dot(rows, weight.load([left, start]).T, total, input_precision="ieee")
        if SIDE:
            side = tl.dot(rows, side_weight.load([left + COLUMNS, start]).T, side, input_precision="ieee")
    if scale is not None:
        total *= _vector(scale, left, columns, COLUMNS)
        if SIDE:
            side *= _vector(scale, left + COLUMNS, columns, SIDE)
    if more is not None:
        first = clip.to(tl.int64) * more_clip + frame.to(tl.int64) * more_frame
        row, column = (first // more_pixel).to(tl.int32) + top, (first % more_pixel).to(tl.int32)
        for start in range(0, more_depth, MORE_DEPTH):
            rows = more.load([row, column + start])
            total = tl.dot(rows, more_weight.load([left, start]).T, total, input_precision="ieee")
            if SIDE:
                side = tl.dot(rows, more_side_weight.load([left + COLUMNS, start]).T, side, input_precision="ieee")
    total += _vector(bias, left, columns, COLUMNS)
    _add(total, residual, out, clip, frame, top, left)
    if SIDE:
        side += _vector(bias, left + COLUMNS, columns, SIDE)
        _add(side, side_residual, side_out, clip, frame, top, left + COLUMNS)


@triton.jit
def _vector(values, first, count, SIZE: tl.constexpr):
    """`SIZE` values from the first on, as a row."""
    place = first + tl.arange(0, SIZE)
    return tl.load(values + place, mask=place < count, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _add(total, residual, out, clip, frame, top, left):
    """Write a part of a tile, with the residual added."""
    there = residual.load([clip, frame, top, left])
    total += there.reshape(total.shape).to(tl.float32)
    out.store([clip, frame, top, left], total.to(out.dtype).reshape(there.shape))
