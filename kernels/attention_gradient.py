"""Attention over few frames with its gradient. Training on such clips spends a quarter of its time in it otherwise."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stt2v.kernels.attention import short_attention
from stt2v.kernels.device import runs_triton


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with gradients, as `torch.nn.functional.scaled_dot_product_attention`.

    q: [N, heads, L, D]; k, v: [N, heads, S, D]; L and S as `short_attention` takes them -> like q.
    """
    if not runs_triton(q):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
    out: Tensor = _Attend.apply(q, k, v)
    return out


class _Attend(torch.autograd.Function):
    """q: [N, heads, L, D]; k, v: [N, heads, S, D], each a view of [N, L or S, heads, D] -> like q."""

    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context.save_for_backward(q, k, v)
        out: Tensor = short_attention(q, k, v, q.shape[3] ** -0.5)
        return out

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v = (saved.transpose(1, 2).contiguous() for saved in context.saved_tensors)  # [N, L or S, heads, D]
        given = grad.transpose(1, 2).contiguous()
        grads = [torch.empty_like(part) for part in (q, k, v)]
        count, length, heads, width = q.shape
        keys = k.shape[1]
        padded = [max(16, triton.next_power_of_2(frames)) for frames in (length, keys)]
        _backward[(count * heads,)](
            q, k, v, given, *grads, heads, length, keys, width**-0.5,
            LENGTH=padded[0], KEYS=padded[1], WIDTH=width, num_warps=1,
        )  # fmt: skip
        return tuple(part.transpose(1, 2) for part in grads)


@triton.jit
def _backward(
    q, k, v, given, q_grad, k_grad, v_grad, heads, length, keys, scale,
    LENGTH: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one pixel: the weights are computed again, then Dao et al. 2022, algorithm 4, without tiles."""
    item, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row, key, column = tl.arange(0, LENGTH)[:, None], tl.arange(0, KEYS)[:, None], tl.arange(0, WIDTH)[None, :]
    at_row = (item * length + row) * heads * WIDTH + head * WIDTH + column
    at_key = (item * keys + key) * heads * WIDTH + head * WIDTH + column
    queries = tl.load(q + at_row, mask=row < length, other=0.0)
    arriving = tl.load(given + at_row, mask=row < length, other=0.0)
    key_rows = tl.load(k + at_key, mask=key < keys, other=0.0)
    values = tl.load(v + at_key, mask=key < keys, other=0.0)
    scores = tl.dot(queries, tl.trans(key_rows), input_precision="ieee") * scale
    scores = tl.where(tl.arange(0, KEYS)[None, :] < keys, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    of_weights = tl.dot(arriving, tl.trans(values), input_precision="ieee")
    of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
    weights, of_scores = weights.to(queries.dtype), of_scores.to(queries.dtype)
    tl.store(v_grad + at_key, tl.dot(tl.trans(weights), arriving, input_precision="ieee"), mask=key < keys)
    tl.store(q_grad + at_row, tl.dot(of_scores, key_rows, input_precision="ieee"), mask=row < length)
    tl.store(k_grad + at_key, tl.dot(tl.trans(of_scores), queries, input_precision="ieee"), mask=key < keys)
