"""Convolutions over channels-last maps as products of tiles (implicit GEMM), in half precision or FP8 (e4m3).

A tile of the result is a box of pixels by some channels. For each tap of the kernel Hopper's copy engine fetches the
box where that tap sees it, straight from the map; what lies outside arrives as zeros, which is the padding. So nothing
is masked, and nothing but the map goes through memory. Over [B, C, F, P] a (3, 1) kernel is a temporal convolution.
What is to be added is fetched the same way once the product is there, and moments are taken in registers.
"""

import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from stt2v.kernels.convolution import PIXELS, empty_maps, part
from stt2v.kernels.device import fetchable, packed
from stt2v.kernels.parts import box, empty_moments, tiles


@dataclass(frozen=True)
class Tiling:
    """How the product is cut: pixels, channels out and bytes of channels in of a tile, and how it is run."""

    pixels: int = PIXELS
    columns: int = 128
    depth: int = 128
    warps: int = 8
    stages: int = 3


DEFAULT = Tiling()


def tiled_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, added: Tensor | None, tiling: Tiling = DEFAULT
) -> Tensor:
    """As `convolution`, on a GPU, with tiles as told."""
    out = empty_maps(x, bias)
    _launch(x, weight, bias, scale, added, out, (None, None, None), tiling)
    return out


def tiled_convolution_and_moments(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None, added: Tensor | None, tiling: Tiling = DEFAULT
) -> tuple[Tensor, Tensor, Tensor]:
    """As `convolution_and_moments`, on a GPU, with tiles as told."""
    out = empty_maps(x, bias)
    moments, counts = empty_moments(out, *part(x, weight, tiling.pixels))
    _launch(x, weight, bias, scale, added, out, (moments[0], moments[1], counts), tiling)
    return out, moments, counts


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    added: Tensor | None,
    out: Tensor,
    moments: tuple[Tensor | None, Tensor | None, Tensor | None],
    tiling: Tiling,
) -> None:
    columns, channels, tall, wide = weight.shape
    taps = weight.permute(0, 2, 3, 1).reshape(columns, -1)
    depth = tiling.depth // x.element_size()
    shape = (len(x), *x.shape[2:])
    sizes = box(shape, tiling.pixels)
    rows, width = part(x, weight, tiling.pixels)
    _convolve[math.prod(tiles(shape, sizes)) * triton.cdiv(columns, tiling.columns),](
        _tiles(x, sizes, depth), TensorDescriptor.from_tensor(fetchable(taps), [tiling.columns, depth]),
        _tiles(out, sizes, tiling.columns), _tiles(added, sizes, tiling.columns),
        *packed(bias, scale), *moments, channels, columns, *shape,
        FRAMES=sizes[0], HEIGHT=sizes[1], WIDTH=sizes[2], TALL=tall, WIDE=wide, COLUMNS=tiling.columns, DEPTH=depth,
        ROWS=rows, RAGGED=bool(shape[1] % rows or shape[2] % width),
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip


def _tiles(maps: Tensor | None, sizes: tuple[int, ...], channels: int) -> TensorDescriptor | None:
    """How the copy engine is to see `maps`, if there are any: as tiles of `sizes` by so many channels."""
    if maps is None:
        return None
    return TensorDescriptor.from_tensor(fetchable(maps.permute(0, 2, 3, 1)), [*sizes, channels])


@triton.jit
def _convolve(
    x, weight, out, added, bias, scale, means, spreads, counts, channels, columns, frames, height, width,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """One tile, computed with pixels as columns. Tiles of the same pixels follow each other, which keeps them in L2."""
    parts = tl.cdiv(columns, COLUMNS)
    high, across = tl.cdiv(height, HEIGHT), tl.cdiv(width, WIDTH)
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
    _write(
        total, out, added, bias, scale, means, spreads, counts, first, columns, frame, top, left,
        frames, height, width, FRAMES, HEIGHT, WIDTH, COLUMNS, ROWS, RAGGED,
    )  # fmt: skip


@triton.jit
def _write(
    total, out, added, bias, scale, means, spreads, counts, first, columns, frame, top, left, frames, height, width,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """A tile of sums, with all that is to be added, and its moments."""
    column = first + tl.arange(0, COLUMNS)
    own = column < columns
    if scale is not None:
        total *= tl.load(scale + column, mask=own, other=0.0)[:, None]
    total += tl.load(bias + column, mask=own, other=0.0).to(tl.float32)[:, None]
    if added is not None:
        total += added.load([frame, top, left, first]).reshape(FRAMES * HEIGHT * WIDTH, COLUMNS).T.to(tl.float32)
    written = total.to(out.dtype)
    out.store([frame, top, left, first], written.T.reshape(FRAMES, HEIGHT, WIDTH, COLUMNS))
    if means is not None:
        # A part is all that the tile has of one frame: ROWS rows, which is one where rows are frames.
        LINES: tl.constexpr = HEIGHT // ROWS
        part = tl.arange(0, FRAMES * LINES)
        band, bands = top // ROWS + part % LINES, tl.cdiv(height, ROWS)
        there = (frame + part // LINES < frames) & (band < bands)
        place = ((frame + part // LINES) * bands + band) * tl.cdiv(width, WIDTH) + left // WIDTH
        tall, wide = tl.minimum(height - top, ROWS), tl.minimum(width - left, WIDTH)
        count = (tall * wide).to(tl.float32)
        values = written.to(tl.float32).reshape(COLUMNS, FRAMES * LINES, ROWS * WIDTH)
        pixel = tl.arange(0, ROWS * WIDTH)
        inside = ((pixel // WIDTH < tall) & (pixel % WIDTH < wide))[None, None, :]
        mean = tl.sum(tl.where(inside, values, 0.0) if RAGGED else values, 2) / count
        distance = values - mean[:, :, None]
        distance = tl.where(inside, distance, 0.0) if RAGGED else distance
        channel = place[None, :] * columns + column[:, None]
        mask = there[None, :] & own[:, None]
        tl.store(means + channel, mean, mask=mask)
        tl.store(spreads + channel, tl.sum(distance * distance, 2), mask=mask)
        if first == 0:
            tl.store(counts + place, count, mask=there)
