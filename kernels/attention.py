"""Attention over the few frames of a pixel, and over the many pixels of a frame.

Libraries tile sequences by 64 or 128, which wastes most of the work on 7, 16, 25 or 38 frames. Here one block takes a
head of a pixel, with everything in registers, and reads queries, keys and values wherever they lie. For long sequences
cuDNN has the fastest kernel on Hopper; PyTorch does not choose it by itself.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from stt2v.kernels.device import runs_triton

LONGEST, LONGEST_WIDE = 64, 32  # frames that a block holds in registers, in half precision and in float32
WIDTHS = (16, 32, 64, 128)  # of a head
WIDEST = 128  # head that cuDNN has a kernel for


def attention_reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q: [N, heads, L, D]; k, v: [N, heads, S, D] -> [N, heads, L, D]."""
    return functional.scaled_dot_product_attention(q, k, v, scale=scale)


@torch.library.custom_op("stt2v::short_attention", mutates_args=())
def short_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`attention_reference` for at most `LONGEST` frames, or `LONGEST_WIDE`, and heads of one of `WIDTHS`.

    The result lies in memory as [N, L, heads, D], which is how the layer after it wants it.
    """
    if not runs_triton(q):
        return _heads_last(attention_reference(q, k, v, scale))
    batch, heads, length, width = q.shape
    q, k, v = map(_near, (q, k, v))
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)
    strides = [stride for tensor in (q, k, v, out) for stride in tensor.stride()[:3]]
    rows, keys = _padded(length), _padded(k.shape[2])
    _attend[(batch * heads,)](
        q, k, v, out, *strides, heads, length, k.shape[2], scale * LOG2_E,
        LENGTH=rows, KEYS=keys, WIDTH=width, num_warps=2 if max(rows, keys) <= 32 else 4,
    )  # fmt: skip
    return out


@torch.library.custom_op("stt2v::long_attention", mutates_args=())
def long_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """`attention_reference` by cuDNN, for half precision and heads of at most `WIDEST`; laid out as the short one's."""
    if not q.is_cuda:
        return _heads_last(attention_reference(q, k, v, scale))
    cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
    q, k, v = map(_near, (q, k, v))
    return _heads_last(cudnn(q, k, v, None, False, 0.0, False, False, scale=scale)[0])


@short_attention.register_fake
@long_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    batch, heads, length, width = q.shape
    return q.new_empty(batch, length, heads, width).transpose(1, 2)


SHORT, LONG = torch.ops.stt2v.short_attention.default, torch.ops.stt2v.long_attention.default


def _near(x: Tensor) -> Tensor:
    """`x`, [N, heads, L, D], or a copy: channels innermost, and an item's values within 32 bits of its first."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    return x if x.stride(3) == 1 and reach < 1 << 31 else x.contiguous()


def _heads_last(x: Tensor) -> Tensor:
    """[N, heads, L, D] in that shape, but in memory as [N, L, heads, D]."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


LOG2_E = 1.4426950408889634


def _padded(length: int) -> int:
    """Matrix units want 16 rows at least."""
    return max(16, int(triton.next_power_of_2(length)))


@triton.jit
def _attend(
    q, k, v, out, qn, qh, ql, kn, kh, kl, vn, vh, vl, on, oh, ol, heads, length, keys, scale,
    LENGTH: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one pixel; scale is that of the scores times log2 e."""
    batch, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row, key, column = tl.arange(0, LENGTH)[:, None], tl.arange(0, KEYS)[:, None], tl.arange(0, WIDTH)[None, :]
    queries = tl.load(q + batch * qn + head * qh + row * ql + column, mask=row < length, other=0.0)
    key_rows = tl.load(k + batch * kn + head * kh + key * kl + column, mask=key < keys, other=0.0)
    values = tl.load(v + batch * vn + head * vh + key * vl + column, mask=key < keys, other=0.0)
    scores = tl.dot(queries, tl.trans(key_rows), input_precision="ieee") * scale
    scores = tl.where(tl.arange(0, KEYS)[None, :] < keys, scores, float("-inf"))
    weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
    mixed = tl.dot(weights.to(values.dtype), values, input_precision="ieee") / tl.sum(weights, 1)[:, None]
    tl.store(out + batch * on + head * oh + row * ol + column, mixed.to(queries.dtype), mask=row < length)
