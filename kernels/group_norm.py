"""GroupNorm over channels-last maps, from their moments.

A group of a video spans every frame, so there are few groups and each is large: one block a group, as libraries do it,
leaves most of a GPU idle. Here maps are reduced by parts (`parts.py`), and parts are merged. What is left of the norm
is one multiplication and addition an element, which the compiler fuses with what follows it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from stt2v.kernels.device import packed, runs_triton

LANES = 4096  # means that a block holds at once
MANY, RUN, CHANNELS = 256, 32, 64
"""From so many parts on as many as `RUN` that follow each other are first merged, by blocks of so many channels: groups
are too few to read them all, a few channels of each at a time."""


def group_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """x: [N, C, H, W] -> the same, normalised: what the factors of `group_factors` give."""
    return functional.group_norm(x, groups, weight, bias, eps)


def apply_factors(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x: [N, C, H, W]; scale, shift: [N, C], float32 -> x * scale + shift, in the type of x."""
    return (x.float() * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


@torch.library.custom_op("stt2v::group_factors", mutates_args=())
def group_factors(
    moments: Tensor,
    counts: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """What GroupNorm multiplies each channel by, and what it then adds.

    moments: [2, N, S, C]; counts: [N, S], float32; weight, bias, offset: [C] -> scale, shift: [N, C], float32. With an
    offset they are factors of what moments are of, for the norm of that plus the offset.
    """
    if not runs_triton(moments):
        return _factors(moments, counts, weight, bias, groups, eps, offset)
    moments, counts, weight, bias, offset = packed(moments, counts, weight, bias, offset)
    if counts.shape[1] >= MANY:
        moments, counts = _condensed(moments, counts)
    _, batch, parts, channels = moments.shape
    scale = moments.new_empty(batch, channels)
    shift = torch.empty_like(scale)
    width = channels // groups
    wide = triton.next_power_of_2(width)
    chunk = max(1, min(LANES // wide, triton.next_power_of_2(parts)))
    _merge[groups, batch](
        moments[0], moments[1], counts, weight, bias, offset, scale, shift, channels, parts, width, eps,
        WIDTH=wide, CHUNK=chunk,
    )  # fmt: skip
    return scale, shift


@group_factors.register_fake
def _(
    moments: Tensor,
    counts: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    scale = moments.new_empty(moments.shape[1], moments.shape[3])
    return scale, torch.empty_like(scale)


OP = torch.ops.stt2v.group_factors.default


def _factors(
    moments: Tensor,
    counts: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    offset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `group_factors`."""
    more = torch.zeros_like(weight, dtype=torch.float32) if offset is None else offset.float()
    means, spreads = (moments[0] + more).unflatten(2, (groups, -1)), moments[1].unflatten(2, (groups, -1))
    counts, width = counts[:, :, None, None], means.shape[3]
    size = counts.sum((1, 3)) * width
    mean = (means * counts).sum((1, 3)) / size
    distances = means - mean[:, None, :, None]
    variance = (spreads + counts * distances.square()).sum((1, 3)) / size
    scale = torch.rsqrt(variance + eps).repeat_interleave(width, 1) * weight.float()
    return scale, bias.float() + (more - mean.repeat_interleave(width, 1)) * scale


def _condensed(moments: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """moments: [2, N, S, C]; counts: [N, S] -> those of runs of parts, on a GPU."""
    _, batch, parts, channels = moments.shape
    runs = triton.cdiv(parts, RUN)
    merged, sizes = moments.new_empty(2, batch, runs, channels), counts.new_empty(batch, runs)
    _condense[runs, triton.cdiv(channels, CHANNELS), batch](
        moments[0], moments[1], counts, merged[0], merged[1], sizes, channels, parts, runs, RUN=RUN, CHANNELS=CHANNELS
    )
    return merged, sizes


@triton.jit
def _condense(
    means, spreads, counts, means_out, spreads_out, counts_out, channels, parts, runs,
    RUN: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The moments of some channels of one run of parts."""
    run, batch = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    own = channel < channels
    place, inside, count = _chunk(counts, batch, run * RUN, parts, channels, channel, own, RUN)
    size = tl.sum(count)
    found = tl.load(means + place, mask=inside, other=0.0)
    mean = tl.sum(found * count, 0) / size
    distance = tl.where(inside, found - mean[None, :], 0.0)
    spread = tl.sum(tl.load(spreads + place, mask=inside, other=0.0) + distance * distance * count, 0)
    row = batch * runs + run
    tl.store(means_out + row * channels + channel, mean, mask=own)
    tl.store(spreads_out + row * channels + channel, spread, mask=own)
    tl.store(counts_out + row, size)


@triton.jit
def _merge(
    means, spreads, counts, weight, bias, offset, scale_out, shift_out, channels, parts, width, eps,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The factors of one group of one map, from the moments of its channels in all parts."""
    group, batch = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, WIDTH)
    channel = group * width + lane
    own = lane < width
    more = tl.zeros([WIDTH], tl.float32)
    if offset is not None:
        more += tl.load(offset + channel, mask=own, other=0.0).to(tl.float32)
    size = 0.0
    total = 0.0
    for start in range(0, parts, CHUNK):
        place, inside, count = _chunk(counts, batch, start, parts, channels, channel, own, CHUNK)
        total += tl.sum((tl.load(means + place, mask=inside, other=0.0) + more[None, :]) * count)
        size += tl.sum(count) * width
    mean = total / size
    spread = 0.0
    for start in range(0, parts, CHUNK):
        place, inside, count = _chunk(counts, batch, start, parts, channels, channel, own, CHUNK)
        found = tl.load(means + place, mask=inside, other=0.0) + more[None, :]
        distance = tl.where(inside, found - mean, 0.0)
        spread += tl.sum(tl.load(spreads + place, mask=inside, other=0.0) + distance * distance * count)
    scale = tl.load(weight + channel, mask=own, other=0.0).to(tl.float32) / tl.sqrt(spread / size + eps)
    shift = tl.load(bias + channel, mask=own, other=0.0).to(tl.float32) + (more - mean) * scale
    tl.store(scale_out + batch * channels + channel, scale, mask=own)
    tl.store(shift_out + batch * channels + channel, shift, mask=own)


@triton.jit
def _chunk(counts, batch, start, parts, channels, channel, own, CHUNK: tl.constexpr):
    """Where the moments of some parts and channels are, which of these there are, and the parts' counts."""
    part = start + tl.arange(0, CHUNK)
    there = part < parts
    row = batch * parts + part
    count = tl.load(counts + row, mask=there, other=0.0)
    return row[:, None] * channels + channel[None, :], there[:, None] & own[None, :], count[:, None]
