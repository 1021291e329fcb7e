"""Convolutions over channels-last maps as products of tiles (implicit GEMM), in half precision or FP8 (e4m3).

A tile of the result is a box of pixels by some channels. For each tap of the kernel Hopper's copy engine fetches the
box where that tap sees it, straight from the map; what lies outside arrives as zeros, which is the padding. So nothing
is masked, and nothing but the map goes through memory. Over [B, C, F, P] a (3, 1) kernel is a temporal convolution.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from stt2v.kernels.convolution import empty_maps


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: pixels, channels out and bytes of channels in of a tile, and how it is run."""

    pixels: int = 256
    columns: int = 128
    depth: int = 128
    warps: int = 8
    stages: int = 3


DEFAULT = Tiling()


@functools.cache  # each launch asks
def box(shape: tuple[int, ...], pixels: int) -> tuple[int, ...]:
    """The frames, rows and columns of tiles of so many pixels that cover maps of `shape` with the least left over."""
    sides = [1 << power for power in range(pixels.bit_length())]
    boxes = (sizes for sizes in itertools.product(sides, repeat=3) if math.prod(sizes) == pixels)
    return min(boxes, key=lambda sizes: (math.prod(tiles(shape, sizes)), sizes))


def tiles(shape: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """How many boxes of these sizes it takes to cover `shape`, along each axis."""
    return [-(-whole // part) for whole, part in zip(shape, sizes, strict=True)]


def tiled_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, tiling: Tiling = DEFAULT
) -> Tensor:
    """As `convolution`, on a GPU, with tiles as told."""
    columns, _, tall, wide = weight.shape
    out = empty_maps(x, bias)
    rows, pixels = (maps.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) for maps in (x, out))
    taps = weight.permute(0, 2, 3, 1).reshape(columns, -1)
    depth = tiling.depth // x.element_size()
    shape = tuple(pixels.shape[:3])
    sizes = box(shape, tiling.pixels)
    count, high, across = tiles(shape, sizes)
    _convolve[count * high * across * triton.cdiv(columns, tiling.columns),](
        TensorDescriptor.from_tensor(rows, [*sizes, depth]),
        TensorDescriptor.from_tensor(taps, [tiling.columns, depth]),
        TensorDescriptor.from_tensor(pixels, [*sizes, tiling.columns]),
        bias, scale, x.shape[1], columns, high, across,
        FRAMES=sizes[0], HEIGHT=sizes[1], WIDTH=sizes[2], TALL=tall, WIDE=wide, COLUMNS=tiling.columns, DEPTH=depth,
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip
    return out


@triton.jit
def _convolve(
    x, weight, out, bias, scale, channels, columns, high, across,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile, computed with pixels as columns. Tiles of the same pixels follow each other, which keeps them in L2."""
    parts = tl.cdiv(columns, COLUMNS)
    first = tl.program_id(0) % parts * COLUMNS
    place = tl.program_id(0) // parts
    left = place % across * WIDTH
    top = place // across % high * HEIGHT
    frame = place // across // high * FRAMES
    slices = tl.cdiv(channels, DEPTH)
    total = tl.zeros([COLUMNS, FRAMES * HEIGHT * WIDTH], tl.float32)
    for step in range(TALL * WIDE * slices):
        tap, channel = step // slices, step % slices * DEPTH
        seen = x.load([frame, top + tap // WIDE - TALL // 2, left + tap % WIDE - WIDE // 2, channel])
        seen = seen.reshape(FRAMES * HEIGHT * WIDTH, DEPTH).T
        taps = weight.load([first, tap * channels + channel])  # past the last channel of a tap, what is seen is zero
        total = tl.dot(taps, seen, total, input_precision="ieee")
    column = first + tl.arange(0, COLUMNS)
    inside = column < columns
    if scale is not None:
        total *= tl.load(scale + column, mask=inside, other=0.0)[:, None]
    total += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[:, None]
    out.store([frame, top, left, first], total.to(out.dtype).T.reshape(FRAMES, HEIGHT, WIDTH, COLUMNS))
