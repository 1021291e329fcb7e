"""Linear layers of what a GroupNorm gives, with its factors in their weights: each frame, or clip, has some of its own.

Then normalised maps are neither written nor read, but the product takes the maps as they are. It pays where a frame has
more pixels than a layer has columns. The product is rounded before the mean is taken from it: where that is as large as
the standard deviation of its group, the result is 1.6 times as far off as by the norm first, and 3 times at three.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch._inductor.pattern_matcher import CallFunction, Ignored, KeywordArg

from stt2v.export.flat_program import Node, calls, found
from stt2v.kernels import group_norm

aten = torch.ops.aten
PIXELS = 2  # of a frame for each column, at least: below, the weights are as large as what they save


def _normed() -> CallFunction:
    """Maps as `export/kernel_pass.py: norms` normalises them."""
    wide = CallFunction(aten.to.dtype, KeywordArg("maps"), torch.float32)
    scaled = CallFunction(aten.mul.Tensor, wide, KeywordArg("scale"))
    return CallFunction(aten.to.dtype, CallFunction(aten.add.Tensor, scaled, KeywordArg("shift")), Ignored())


def _layer(tokens: CallFunction) -> CallFunction:
    return CallFunction(aten.linear.default, tokens, KeywordArg("weight"), KeywordArg("bias"))


def _of_frames() -> CallFunction:
    """A layer of the tokens of [N, C, h, w], [N, P, C]."""
    return _layer(CallFunction(aten.transpose.int, CallFunction(aten.flatten.using_ints, _normed(), 2), 1, 2))


def _of_frames_by_axes() -> CallFunction:
    """The same by a permutation, as in diffusers."""
    rows = CallFunction(aten.permute.default, _normed(), [0, 2, 3, 1])
    return _layer(CallFunction(aten.reshape.default, rows, Ignored()))


def _of_pixels() -> CallFunction:
    """A layer of the tokens of [B, C, F, P], [(B P), F, C]."""
    clips = CallFunction(aten.reshape.default, _normed(), KeywordArg("clips"))
    rows = CallFunction(aten.permute.default, clips, [0, 3, 4, 2, 1])
    return _layer(CallFunction(aten.reshape.default, rows, Ignored()))


LAYERS = ((_of_frames(), False), (_of_frames_by_axes(), False), (_of_pixels(), True))
"""Patterns, and whether the tokens are pixels, of which each has its frames."""


def normed_layers(node: Node) -> Node | None:
    """The layer `node` with weights of each frame's, or clip's, own."""
    for pattern, turned in LAYERS:
        names = found(pattern, node)
        if names is not None and _pays(node, names):
            return _put(node, names, turned)
    return None


def _pays(node: Node, names: Mapping[str, Node]) -> bool:
    maps, (columns, channels) = names["maps"].meta["val"], names["weight"].meta["val"].shape
    if maps.shape[1] != channels or maps[0, 0].numel() < PIXELS * columns:
        return False
    laid = "clips" not in names or [*names["clips"][:3]] == [*maps.shape[:3]]
    return laid and _is_factor(names["scale"]) and _is_factor(names["shift"])


def _put(node: Node, names: Mapping[str, Node], turned: bool) -> Node:
    maps, scale, shift, weight, bias = (names[name] for name in ("maps", "scale", "shift", "weight", "bias"))
    value = maps.meta["val"]

    def call(target: Any, *arguments: Any) -> Node:
        return node.graph.call_function(target, arguments)

    scaled, shifted = (
        call(aten.mul.Tensor, call(aten.unsqueeze.default, each.args[0], 1), weight) for each in (scale, shift)
    )
    weights = call(aten.transpose.int, call(aten.to.dtype, scaled, value.dtype), 1, 2)
    product = call(aten.bmm.default, call(aten.transpose.int, call(aten.flatten.using_ints, maps, 2), 1, 2), weights)
    biases = call(aten.add.Tensor, call(aten.sum.dim_IntList, shifted, [-1]), bias)
    # In float32, so that it is not written: what reads it adds.
    sum_ = call(aten.add.Tensor, call(aten.to.dtype, product, torch.float32), call(aten.unsqueeze.default, biases, 1))
    rows = call(aten.to.dtype, sum_, value.dtype)
    if turned:
        frames = call(aten.reshape.default, rows, [*value.shape[:1], *value.shape[2:], -1])
        rows = call(aten.transpose.int, frames, 1, 2)
    return call(aten.reshape.default, rows, [*node.meta["val"].shape])


def _is_factor(node: Node) -> bool:
    """Whether `node` is what a GroupNorm multiplies channels by, or adds to them."""
    return (
        calls(node, aten.reshape.default)
        and calls(node.args[0], operator.getitem)
        and calls(node.args[0].args[0], group_norm.OP)
    )
