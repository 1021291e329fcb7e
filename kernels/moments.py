"""Moments of channels-last maps (`parts.py`), by kernels that read them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stt2v.kernels.device import runs_triton
from stt2v.kernels.parts import moments_reference

ROWS, CHANNELS = 64, 64  # a tile: pixels by channels
TILES = 16  # a block reduces so many tiles, one after the other
PART = ROWS * TILES  # pixels
MOST = (1 << 16) - 1  # maps: a grid has no more blocks along any axis but the first


@torch.library.custom_op("stt2v::moments", mutates_args=())
def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [N, C, H, W], best channels-last, N at most `MOST` -> moments: [2, N, S, C]; counts: [N, S]; both float32.

    Parts of a map are so many pixels that follow each other (`PART`), whatever rows they are of.
    """
    if not runs_triton(x):
        parts, counts = moments_reference(x.float().flatten(2)[:, :, None], 1, PART)
        return parts.flatten(2, 3), counts.flatten(1)
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    batch, channels, height, width = x.shape
    parts, counts = _empty(x)
    _moments[counts.shape[1], triton.cdiv(channels, CHANNELS), batch](
        rows, parts[0], parts[1], counts, height * width, channels, counts.shape[1],
        ROWS=ROWS, CHANNELS=CHANNELS, TILES=TILES,
    )  # fmt: skip
    return parts, counts


@moments.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return _empty(x)


OP = torch.ops.stt2v.moments.default


def _empty(x: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    counts = torch.empty(batch, -(-height * width // PART), device=x.device, dtype=torch.float32)
    return counts.new_empty(2, *counts.shape, channels), counts


@triton.jit
def _moments(
    x, means, spreads, counts, pixels, channels, parts,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """The moments of one part of one map.

    The row that distances are first taken from is one of the part's, so that rounding cannot exceed what it adds.
    """
    part, batch = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    own = channel < channels
    top = part * TILES * ROWS
    base = x + batch.to(tl.int64) * pixels * channels
    first = tl.load(base + top.to(tl.int64) * channels + channel, mask=own, other=0.0).to(tl.float32)
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    squares = tl.zeros([ROWS, CHANNELS], tl.float32)
    for tile in tl.range(TILES, num_stages=3):  # the next tiles are on their way meanwhile
        row = top + tile * ROWS + tl.arange(0, ROWS)
        inside = (row < pixels)[:, None] & own[None, :]
        values = tl.load(base + row.to(tl.int64)[:, None] * channels + channel[None, :], mask=inside, other=0.0)
        distance = tl.where(inside, values.to(tl.float32) - first[None, :], 0.0)
        total += distance
        squares += distance * distance
    count = tl.minimum(pixels - top, TILES * ROWS).to(tl.float32)
    shift = tl.sum(total, 0) / count
    place = batch * parts + part
    tl.store(means + place * channels + channel, first + shift, mask=own)
    tl.store(spreads + place * channels + channel, tl.sum(squares, 0) - shift * shift * count, mask=own)
    tl.store(counts + place, count)
