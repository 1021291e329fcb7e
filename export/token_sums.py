"""Sums of the tokens of a clip: with two layers and the map that they are added to as one kernel, and turned."""

from collections.abc import Mapping

import torch
from torch._inductor.pattern_matcher import CallFunction, Ignored, KeywordArg

from stt2v.export.flat_program import Node, calls, found
from stt2v.export.gates import fp8_arguments
from stt2v.kernels import linear
from stt2v.kernels.device import fits_rows

aten = torch.ops.aten
WIDEST = 640  # columns, up to which memory is what such layers wait for (`bench/RESULTS.md`)


def _ending() -> CallFunction:
    """What `export/transformer_ends.py` makes of the end of a transformer."""
    first = CallFunction(aten.reshape.default, KeywordArg("first"), Ignored())
    second = CallFunction(aten.linear.default, KeywordArg("more"), KeywordArg("more_weight"))
    both = CallFunction(aten.add.Tensor, first, second)
    return CallFunction(aten.add.Tensor, KeywordArg("residual"), CallFunction(aten.permute.default, both, [0, 2, 1, 3]))


ENDING = _ending()


def endings(node: Node) -> Node | None:
    """Two layers of [B, P, F, K], the first in FP8 or not, and rows of [B, F, P, C]: `node` is the sum of all."""
    names = found(ENDING, node)
    if names is None:
        return None
    residual, first, more, more_weight = (names[name] for name in ("residual", "first", "more", "more_weight"))
    layer = _layer(first)
    if layer is None or len(first.users) > 1 or not _fit(node, names):
        return None
    x, weight, bias, scale = layer
    if not all(fits_rows(each.meta["val"].shape[1], each.meta["val"].dtype) for each in (weight, more_weight)):
        return None
    call, (clips, frames, pixels, _) = node.graph.call_function, node.meta["val"].shape
    rows = call(aten.reshape.default, (x, [clips, pixels, frames, -1]))
    by_frame = [call(aten.permute.default, (each, [0, 2, 1, 3])) for each in (rows, more)]
    return call(linear.OP, (by_frame[0], weight, bias, residual, scale, by_frame[1], more_weight))


def _fit(node: Node, names: Mapping[str, Node]) -> bool:
    """Whether nothing is repeated to be added, and the sum is one that pays."""
    value, residual, first, more = (
        each.meta["val"] for each in (node, *map(names.__getitem__, ("residual", "first", "more")))
    )
    if residual.shape != value.shape or first.numel() != value.numel():
        return False
    clips, frames, pixels, columns = value.shape
    alike: bool = more.shape[:-1] == (clips, pixels, frames)
    return alike and columns <= WIDEST and columns % linear.GRANULE == 0


def turns(node: Node) -> Node | None:
    """The sum of a clip's tokens, [B, F, P, C], turned to [B, P, F, C], laid so for all that read it.

    Then norms and what comes after them go through their rows in one order, and are one kernel.
    """
    x, *axes = node.args
    if not calls(x, aten.add.Tensor) or axes != [1, 2] or x.meta["val"].ndim != 4 or len(node.users) == 1:
        return None
    call = node.graph.call_function
    return call(aten.contiguous.default, (call(node.target, node.args),))


def _layer(node: Node) -> tuple[Node, Node, Node, Node | None] | None:
    """Rows, weight, bias and, in FP8, scales of a layer's columns; in FP8 its rows have to be without any."""
    if calls(node, aten.linear.default) and len(node.args) == 3:
        return (*node.args, None)
    arguments = fp8_arguments(node)
    if arguments is None:
        return None
    x, weight, bias, x_scale, scale = arguments
    return (x, weight, bias, scale.args[0]) if calls(x_scale, aten.new_ones.default) else None
