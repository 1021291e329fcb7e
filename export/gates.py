"""Gated units (GEGLU) in a captured program, and what FP8 needs to know of them.

The layer after a gated unit takes rows in FP8, and these need no scale of their own where a LayerNorm comes before the
unit: no row behind one is longer than the root of its width, so that by Cauchy and Schwarz no column of the unit can
exceed what its weights say. The bound is far above most values, but e4m3 has as many bits for small ones as for large.
So each column is divided by its bound, which costs nothing: the factor goes into the weights before and behind it.
"""

import operator
from collections.abc import MutableMapping

import torch
from torch import Tensor

from stt2v.export.flat_program import Node, calls
from stt2v.kernels import fp8
from stt2v.kernels.fp8 import LARGEST, SMALLEST_SCALE, TYPE

aten = torch.ops.aten
ROOM = 2.0  # above the bound, because rounding to FP8 adds up to a sixteenth to each of four factors


def gated_layer(node: Node) -> Node | None:
    """The layer whose output is kept * gelu(gate) in `node`, if that is what it is and all that it is used for."""
    if not calls(node, aten.mul.Tensor):
        return None
    kept, gelu = node.args
    if not calls(gelu, aten.gelu.default) or gelu.kwargs:
        return None
    gate = gelu.args[0]
    if not (calls(kept, operator.getitem) and calls(gate, operator.getitem)):
        return None
    chunk = gate.args[0]
    if chunk is not kept.args[0] or (kept.args[1], gate.args[1]) != (0, 1) or not calls(chunk, aten.chunk.default):
        return None
    layer, parts, *axis = chunk.args
    if parts != 2 or axis not in ([-1], [layer.meta["val"].ndim - 1]):
        return None
    alone = len(chunk.users) == 2 and all(len(each.users) == 1 for each in (layer, kept, gate, gelu))
    return layer if alone else None


def fp8_arguments(layer: Node) -> tuple[Node, ...] | None:
    """Rows, weight, bias, the rows' scales and the weight's of a layer with a bias that is in FP8 (`export/fp8.py`)."""
    if not (calls(layer, aten.add.Tensor) and calls(layer.args[0], aten.reshape.default)):
        return None
    product, bias = layer.args[0].args[0], layer.args[1]
    if not calls(product, fp8.PRODUCT):
        return None
    x, weight, x_scale, scale = product.args
    return x, weight, bias, x_scale, scale


def norm_before(x: Node, width: int) -> Node | None:
    """The LayerNorm over `width` values that the rows of `x` come from, if they do."""
    while calls(x, aten.reshape.default) or calls(x, aten.to.dtype):
        x = x.args[0]
    whole = calls(x, aten.layer_norm.default) and x.args[1] == [width] and None not in x.args[2:4]
    return x if whole and len(x.args) > 3 else None


def narrowed(x: Node, weight: Node, weights: MutableMapping[str, Tensor]) -> tuple[Node, Node] | None:
    """`x` in FP8, [M, D], and the scales of its rows, [M, 1], where it is a gated unit behind a LayerNorm.

    Then the columns of `weight`, which takes it, and the layer before have other weights.
    """
    layer = gated_layer(x)
    arguments = fp8_arguments(layer) if layer else None
    if arguments is None or len(x.users) > 1:
        return None
    rows, before, bias, _, factors = arguments
    divided = rows.args[0]  # by its scale, before it was converted to FP8
    norm = norm_before(divided.args[0], weights[before.name].shape[1]) if calls(divided, aten.div.Tensor) else None
    if norm is None or len(bias.users) > 1:
        return None
    if not all(place.name in weights for place in (bias, *norm.args[2:4])):
        return None
    scale, width = factors.args[0], x.meta["val"].shape[-1]
    matrix = weights[before.name].float() * weights[scale.name][:, None]
    gain, shift = (weights[place.name].float() for place in norm.args[2:4])
    kept, gate = _bounds(matrix, weights[bias.name].float(), gain, shift).chunk(2)
    step = (kept * gate * (ROOM / LARGEST)).clamp_min(SMALLEST_SCALE)
    for name in (bias.name, scale.name):
        values = weights[name]
        weights[name] = torch.cat([values[:width] / step, values[width:]]).to(values.dtype)
    weights[weight.name] = weights[weight.name] * step
    call = x.graph.call_function
    narrow = call(aten.to.dtype, (call(aten.reshape.default, (x, [-1, width])), TYPE))
    count = x.meta["val"].numel() // width
    return narrow, call(aten.new_ones.default, (narrow, [count, 1]), {"dtype": torch.float32})


def _bounds(weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """What no output of a layer behind a LayerNorm exceeds; weight: [N, K], bias: [N], gain, shift: [K] -> [N]."""
    bounds: Tensor = (bias + weight @ shift).abs() + (weight * gain).norm(dim=1) * weight.shape[1] ** 0.5
    return bounds
