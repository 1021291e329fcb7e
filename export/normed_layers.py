"""Linear layers of what a GroupNorm gives, with its factors in their weights: each frame has some of its own.

Then normalised maps are neither written nor read, but the product takes the maps as they are. It pays where a frame has
more pixels than a layer has columns. The product is rounded before the mean is taken from it: where that is as large as
the standard deviation of its group, the result is 1.6 times as far off as by the norm first, and 3 times at three.
"""

import operator
from typing import Any

import torch
from torch._inductor.pattern_matcher import CallFunction, Ignored, KeywordArg

from stt2v.export.flat_program import calls, found
from stt2v.kernels import group_norm

aten = torch.ops.aten
Node = Any  # an fx.Node, whose arguments have a type that is a union of everything
PIXELS = 2  # of a frame for each column, at least: below, the weights are as large as what they save


def _layer() -> CallFunction:
    """A layer of tokens, [N, h w, C], of maps that `export/kernel_pass.py: norms` normalises."""
    wide = CallFunction(aten.to.dtype, KeywordArg("maps"), torch.float32)
    scaled = CallFunction(aten.mul.Tensor, wide, KeywordArg("scale"))
    normed = CallFunction(aten.to.dtype, CallFunction(aten.add.Tensor, scaled, KeywordArg("shift")), Ignored())
    tokens = CallFunction(aten.transpose.int, CallFunction(aten.flatten.using_ints, normed, 2), 1, 2)
    return CallFunction(aten.linear.default, tokens, KeywordArg("weight"), KeywordArg("bias"))


LAYER = _layer()


def normed_layers(node: Node) -> Node | None:
    """The layer `node` with weights of each frame's own."""
    names = found(LAYER, node)
    if names is None:
        return None
    maps, scale, shift, weight, bias = (names[name] for name in ("maps", "scale", "shift", "weight", "bias"))
    value, columns = maps.meta["val"], node.meta["val"].shape[-1]
    if not (_is_factor(scale) and _is_factor(shift)) or value[0, 0].numel() < PIXELS * columns:
        return None

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
    return call(aten.to.dtype, sum_, value.dtype)


def _is_factor(node: Node) -> bool:
    """Whether `node` is what a GroupNorm multiplies channels by, or adds to them."""
    return (
        calls(node, aten.reshape.default)
        and calls(node.args[0], operator.getitem)
        and calls(node.args[0].args[0], group_norm.OP)
    )
