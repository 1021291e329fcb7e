"""FP8 (e4m3) for the linear layers and convolutions of a captured program, as Hopper takes them.

Weights have one scale an output channel, worked out here. The rows that a linear layer sees have one each, worked out
as the program runs, unless a gated unit gives them (`export/gates.py`). A map has one: behind a norm it is known
beforehand, because e4m3 has as many bits for small values as for large ones and only needs to hold the largest; other
maps are looked at as the program runs. So nothing needs calibration (FP8 formats for deep learning, Micikevicius et al.
2022).
"""

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from stt2v.export.flat_program import FlatProgram, Node, arguments, copied, laid_out
from stt2v.export.gates import gated_layer, narrowed, norm_before
from stt2v.kernels import convolution, fp8
from stt2v.kernels.fp8 import LARGEST, SMALLEST_SCALE, TYPE, quantised_rows

aten = torch.ops.aten
LINEAR, CONVOLUTION = aten.linear.default, aten.conv2d.default
KINDS = MappingProxyType({LINEAR: "fp8_linears", CONVOLUTION: "fp8_convolutions"})
FEWEST = MappingProxyType({LINEAR: 3 << 19, CONVOLUTION: 1 << 18})
"""Weights of a layer; below, quantising its input costs more than it saves, if it is not done by what comes before."""
FEWEST_AT_GATES = 1 << 18  # of a layer before or behind a gated unit, whose input costs nothing to quantise
FEWEST_ROWS = 512  # or pixels
GRANULE = 16  # channels in and out come in multiples
SPREAD = 64.0  # standard deviations, within which nearly every value behind a norm lies; it is cut off there


def quantise(
    program: FlatProgram, keep: Collection[str] = (), fewest: Mapping[Any, int] = FEWEST
) -> tuple[FlatProgram, Mapping[str, int]]:
    """`program` with its large layers in FP8, but for those whose weights `keep` names, and how many there are."""
    module, weights = copied(program)
    counts = dict.fromkeys(KINDS.values(), 0)
    for node in [*worthwhile(module.graph, weights, fewest)]:
        if node.args[1].name in keep:
            continue
        with node.graph.inserting_before(node):
            result = _product(node, weights) if node.target == LINEAR else _convolution(node, weights)
        result.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(result)
        node.graph.erase_node(node)
        counts[KINDS[node.target]] += 1
    module.recompile()
    names = [node.name for node in module.graph.find_nodes(op="placeholder")]
    return FlatProgram(module, {name: weights[name] for name in names if name in weights}), counts


def layers(program: FlatProgram, fewest: Mapping[Any, int] = FEWEST) -> dict[str, int]:
    """The weights of the layers that `quantise` takes, and how many multiplications each layer is."""
    return {
        node.args[1].name: _rows_seen(node) * node.args[1].meta["val"].numel()
        for node in worthwhile(program.module.graph, program.weights, fewest)
    }


def worthwhile(graph: fx.Graph, weights: Mapping[str, Tensor], fewest: Mapping[Any, int]) -> Iterator[Node]:
    """The layers that gain by FP8: operations of `fewest` with weights of their own, large enough."""
    at_gates = {node for layer in graph.nodes for node in _around_gates(layer)}
    for node in graph.nodes:
        if node.target not in fewest or node.args[1].name not in weights or len(node.args[1].users) > 1:
            continue
        shape = weights[node.args[1].name].shape
        least = min(fewest[node.target], FEWEST_AT_GATES) if node in at_gates else fewest[node.target]
        if _rows_seen(node) < FEWEST_ROWS or shape.numel() < least or shape[0] % GRANULE or shape[1] % GRANULE:
            continue
        if node.target == LINEAR or _keeps_size(node, shape[2:]):
            yield node


def _rows_seen(node: Node) -> int:
    """How many rows or pixels a layer gets."""
    x, weight = (place.meta["val"] for place in node.args[:2])
    return int(x.numel() // weight.shape[1])


def _around_gates(node: Node) -> tuple[Node, ...]:
    """A linear layer behind a gated unit, and the one before it, if that takes what a LayerNorm gives."""
    layer = gated_layer(node.args[0]) if node.target == LINEAR else None
    if layer is None or layer.target != LINEAR:
        return ()
    x = layer.args[0]
    return (layer, node) if norm_before(x, x.meta["val"].shape[-1]) else ()


def _keeps_size(node: Node, taps: tuple[int, ...]) -> bool:
    """Whether a convolution gives maps of the size that it gets, has more than one tap, and a bias."""
    if len(node.args) != 5 or node.meta["val"].ndim != len(taps) + 2:
        return False
    _, _, bias, stride, padding = node.args
    padded = padding == [tap // 2 for tap in taps] and all(tap % 2 for tap in taps)
    return bias is not None and {*stride} == {1} and padded


def _product(node: Node, weights: dict[str, Tensor]) -> Node:
    """A linear layer with its weight in FP8. Written out, so that the compiler fuses what quantises its input."""
    call = node.graph.call_function
    x, weight, bias = arguments(node)
    value, result = x.meta["val"], node.meta["val"]
    rows, scale = narrowed(x, weight, weights) or _rows(call, x, value.shape[-1])
    scales = _narrow(weight, weights)
    product = call(fp8.PRODUCT, (rows, weight, scale, call(aten.reshape.default, (scales, [1, -1]))))
    out = call(aten.reshape.default, (product, list(result.shape)))
    if bias:
        out = call(aten.add.Tensor, (out, bias))
    return out if result.dtype == torch.bfloat16 else call(aten.to.dtype, (out, result.dtype))


def _convolution(node: Node, weights: dict[str, Tensor]) -> Node:
    """A convolution with its weight in FP8."""
    call = node.graph.call_function
    x, weight, bias, *_ = node.args
    factors, largest = _narrow(weight, weights), _largest(x, weights)
    wide = call(aten.to.dtype, (x, torch.float32))
    if largest is None:
        seen = x.args[0] if x.target == aten.upsample_nearest2d.vec else x  # which repeats values, and has no other
        # By pixels first: a pixel's channels lie side by side, and the compiler goes through a map by its axes.
        by_pixel = call(aten.amax.default, (call(aten.abs.default, (call(aten.to.dtype, (seen, torch.float32)),)), [1]))
        scale = _scale(call, by_pixel, [0, 1, 2], False)
        factors = call(aten.mul.Tensor, (factors, scale))
        scaled = call(aten.div.Tensor, (wide, scale))
    else:
        weights[factors.name] = weights[factors.name] * (largest / LARGEST)
        scaled = call(aten.mul.Tensor, (wide, LARGEST / largest))
    maps = call(aten.clamp.default, (scaled, -LARGEST, LARGEST))
    return call(convolution.OP, (call(aten.to.dtype, (maps, TYPE)), weight, bias, factors))


def _narrow(place: Node, weights: dict[str, Tensor]) -> Node:
    """Put the weight at `place` in FP8. Returns a new placeholder, of the scales of its channels out."""
    weight = weights[place.name]
    rows, scale = quantised_rows(weight.flatten(1))
    weights[place.name] = laid_out(rows.reshape(weight.shape))
    with place.graph.inserting_after(place):
        scales = place.graph.placeholder(f"{place.name}_scale")
    weights[scales.name] = scale.flatten()
    return scales


def _rows(call: Any, x: Node, width: int) -> tuple[Node, Node]:
    """The rows of `x` in FP8, and their scales, worked out as the program runs."""
    wide = call(aten.to.dtype, (call(aten.reshape.default, (x, [-1, width])), torch.float32))
    scale = _scale(call, call(aten.abs.default, (wide,)), [-1], True)
    return call(aten.to.dtype, (call(aten.div.Tensor, (wide, scale)), TYPE)), scale


def _scale(call: Any, sizes: Node, axes: list[int], keep: bool) -> Node:
    """What values of these sizes are to be divided by so that the largest along `axes` is the largest in FP8."""
    most = call(aten.amax.default, (sizes, axes, keep))
    return call(aten.clamp_min.default, (call(aten.mul.Tensor, (most, 1 / LARGEST)), SMALLEST_SCALE))


def _largest(x: Node, weights: Mapping[str, Tensor]) -> float | None:
    """What hardly any value of `x` exceeds, where it comes from a GroupNorm and SiLU."""
    for operation in (aten.silu.default, aten.group_norm.default):
        while x.target == aten.reshape.default:
            x = x.args[0]
        if x.target != operation:
            return None
        norm, x = x, x.args[0]
    places = arguments(norm)[2:4]
    if not all(place and place.name in weights for place in places):
        return None
    gain, shift = (weights[place.name].float().abs().max().item() for place in places)
    return max(SPREAD * gain + shift, SMALLEST_SCALE)
