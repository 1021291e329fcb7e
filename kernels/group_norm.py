"""GroupNorm over channels-last maps, its statistics split over many blocks.

A group of a video spans every frame, so there are few groups and each is large: one block a group, as libraries do it,
leaves most of a GPU idle. Here each block reduces some channels of some rows around the first of these, and what blocks
find is merged, by the shifted and the parallel algorithm of Chan, Golub and LeVeque (1983), which keep their precision
where the mean is far from zero. What is left of the norm is one multiplication and addition an element, which the
compiler fuses with what follows it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from stt2v.kernels.device import runs_triton

ROWS, CHANNELS = 64, 64  # a tile: pixels by channels
TILES = 16  # a block reduces so many tiles, one after the other


def group_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """x: [N, C, H, W] -> the same, normalised: what the factors of `group_factors` give."""
    return functional.group_norm(x, groups, weight, bias, eps)


def apply_factors(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x: [N, C, H, W]; scale, shift: [N, C], float32 -> x * scale + shift, in the type of x."""
    return (x.float() * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


@torch.library.custom_op("stt2v::group_factors", mutates_args=())
def group_factors(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """What GroupNorm multiplies each channel by, and what it then adds.

    x: [N, C, H, W], best channels-last; weight, bias: [C] -> scale, shift: [N, C], float32.
    """
    batch, channels, height, width = x.shape
    if not runs_triton(x):
        variance, mean = torch.var_mean(x.float().reshape(batch, groups, -1), -1, correction=0)
        return _factors(mean, variance, weight, bias, eps)
    rows = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    pixels = height * width
    splits = triton.cdiv(pixels, ROWS * TILES)
    moments = torch.empty(2, batch, splits, channels, device=x.device, dtype=torch.float32)
    grid = (splits, triton.cdiv(channels, CHANNELS), batch)
    _moments[grid](rows, moments[0], moments[1], pixels, channels, splits, ROWS=ROWS, CHANNELS=CHANNELS, TILES=TILES)
    scale = torch.empty(batch, channels, device=x.device, dtype=torch.float32)
    shift = torch.empty_like(scale)
    width = channels // groups
    _merge[(groups, batch)](
        moments[0], moments[1], weight, bias, scale, shift, pixels, channels, splits, width, eps,
        PER_SPLIT=ROWS * TILES, WIDTH=triton.next_power_of_2(width), CHUNK=32,
    )  # fmt: skip
    return scale, shift


@group_factors.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    scale = x.new_empty(x.shape[:2], dtype=torch.float32)
    return scale, torch.empty_like(scale)


OP = torch.ops.stt2v.group_factors.default


def _factors(mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """mean, variance: [N, groups]; weight, bias: [C] -> scale, shift: [N, C]."""
    width = len(weight) // mean.shape[1]
    inverse = torch.rsqrt(variance + eps).repeat_interleave(width, 1)
    scale = inverse * weight.float()
    return scale, bias.float() - mean.repeat_interleave(width, 1) * scale


@triton.jit
def _moments(
    x, mean_out, spread_out, pixels, channels, splits,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Mean, and sum of squared distances from it, of each channel over one split of the pixels of one map.

    The row that distances are first taken from is one of the split's, so that rounding cannot exceed what it adds.
    """
    split, batch = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    own = channel < channels
    top = split * TILES * ROWS
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
    place = (batch * splits + split) * channels + channel
    tl.store(mean_out + place, first + shift, mask=own)
    tl.store(spread_out + place, tl.sum(squares, 0) - shift * shift * count, mask=own)


@triton.jit
def _merge(
    means, spreads, weight, bias, scale_out, shift_out, pixels, channels, splits, width, eps,
    PER_SPLIT: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The factors of one group of one map, from the moments of its channels in all splits."""
    group, batch = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, WIDTH)
    channel = group * width + lane
    own = lane < width
    size = 1.0 * pixels * width
    total = 0.0
    for start in range(0, splits, CHUNK):
        split = start + tl.arange(0, CHUNK)
        inside = (split < splits)[:, None] & own[None, :]
        count = tl.minimum(pixels - split * PER_SPLIT, PER_SPLIT).to(tl.float32)[:, None]
        place = (batch * splits + split)[:, None] * channels + channel[None, :]
        total += tl.sum(tl.where(inside, tl.load(means + place, mask=inside, other=0.0) * count, 0.0))
    mean = total / size
    spread = 0.0
    for start in range(0, splits, CHUNK):
        split = start + tl.arange(0, CHUNK)
        inside = (split < splits)[:, None] & own[None, :]
        count = tl.minimum(pixels - split * PER_SPLIT, PER_SPLIT).to(tl.float32)[:, None]
        place = (batch * splits + split)[:, None] * channels + channel[None, :]
        distance = tl.load(means + place, mask=inside, other=0.0) - mean
        part = tl.load(spreads + place, mask=inside, other=0.0) + distance * distance * count
        spread += tl.sum(tl.where(inside, part, 0.0))
    scale = tl.load(weight + channel, mask=own, other=0.0).to(tl.float32) / tl.sqrt(spread / size + eps)
    shift = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32) - mean * scale
    tl.store(scale_out + batch * channels + channel, scale, mask=own)
    tl.store(shift_out + batch * channels + channel, shift, mask=own)
