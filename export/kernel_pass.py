"""The pass that puts our kernels into a captured program; what it computes stays the same."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from stt2v.export.flat_program import Node, arguments, calls
from stt2v.export.gates import fp8_arguments, gated_layer
from stt2v.export.normed_layers import normed_layers
from stt2v.export.token_sums import endings, turns
from stt2v.kernels import attention, convolution, fp8, geglu, group_norm, moments
from stt2v.kernels.device import fits_rows

aten = torch.ops.aten
Rewrite = Callable[[Node], Node | None]
"""What replaces a node, inserted before it, or None to leave it."""


def put_kernels(module: fx.GraphModule) -> dict[str, int]:
    """Rewrite `module` for CUDA. Returns how often each rewrite was made."""
    counts = dict.fromkeys((rewrite.__name__ for rewrite in REWRITES.values()), 0)
    for node in list(module.graph.nodes):
        rewrite = REWRITES.get(node.target)
        if rewrite is None:
            continue
        with module.graph.inserting_before(node):
            result = rewrite(node)
        if result is not None:
            if "val" in node.meta:
                result.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(result)
            counts[rewrite.__name__] += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return counts


def norms(node: Node) -> Node | None:
    """GroupNorm over maps as moments, factors of these, and one multiplication and addition.

    Where PyTorch's convolution gives the maps, its bias is put into the factors, and never goes through memory.
    """
    x, groups, weight, bias, eps, _ = arguments(node)
    value = _value(x)
    if value.ndim != 4 or len(value) > moments.MOST or weight is None or bias is None:
        return None
    call = node.graph.call_function
    x, offset = without_bias(x)
    parts = call(moments.OP, (x,))
    counted = (call(operator.getitem, (parts, i)) for i in (0, 1))
    factors = call(group_norm.OP, (*counted, weight, bias, groups, eps, *([] if offset is None else [offset])))
    shape = [*value.shape[:2], 1, 1]
    scale, shift = (call(aten.reshape.default, (call(operator.getitem, (factors, i)), shape)) for i in (0, 1))
    wide = call(aten.to.dtype, (x, torch.float32))
    sum_ = call(aten.add.Tensor, (call(aten.mul.Tensor, (wide, scale)), shift))
    return call(aten.to.dtype, (sum_, value.dtype))


def gates(node: Node) -> Node | None:
    """linear, in FP8 or not -> chunk -> kept * gelu(gate) as one kernel; `node` is the product."""
    layer = gated_layer(node)
    if layer is None:
        return None
    taken = fp8_arguments(layer)
    if taken is None and calls(layer, aten.linear.default) and arguments(layer)[2]:
        taken = arguments(layer)
    if taken is None or not _can_be_fetched(taken[1]):
        return None
    call = node.graph.call_function
    return call(aten.reshape.default, (call(geglu.OP, taken), list(_value(node).shape)))


def _can_be_fetched(weight: Node) -> bool:
    """Whether rows that a gated unit with this `weight`, [2 D, K], takes and gives can be."""
    columns, depth = _value(weight).shape
    return all(fits_rows(size, _value(weight).dtype) for size in (depth, columns // 2))


def narrow_gates(node: Node) -> Node | None:
    """What a gated unit's kernel gives, and is only wanted in FP8, in FP8 at once; `node` converts it."""
    x, dtype, *_ = node.args
    unit = x
    while calls(unit, aten.reshape.default) and len(unit.users) == 1:
        unit = unit.args[0]
    if dtype != fp8.TYPE or unit is x or not calls(unit, geglu.OP) or len(unit.users) > 1:
        return None
    call = node.graph.call_function
    return call(aten.reshape.default, (call(geglu.OP, unit.args, {"narrow": True}), x.args[1]))


def without_bias(maps: Node) -> tuple[Node, Node | None]:
    """`maps`, and their bias left out of them if PyTorch's convolution gives them, which adds it in a second pass."""
    if not calls(maps, aten.conv2d.default) or len(maps.users) > 1 or len(maps.args) < 3:
        return maps, None
    x, weight, bias, *how = maps.args
    bare = maps.graph.call_function(aten.conv2d.default, (x, weight, None, *how))
    bare.meta["val"] = maps.meta["val"]
    return bare, bias


def convolutions(node: Node) -> Node | None:
    """Convolutions over frames by our kernel: cuDNN's are slow where they see one pixel at a time.

    Over space cuDNN's are so much faster in half precision that passes over their maps after them cost less.
    """
    if len(node.args) != 5 or _value(node).ndim != 4 or _value(node).dtype == torch.float32:
        return None
    x, weight, bias, stride, padding = node.args
    columns, channels, tall, wide = _value(weight).shape
    odd = columns % convolution.GRANULE or channels % convolution.GRANULE
    if bias is None or stride != [1, 1] or (wide, padding) != (1, [tall // 2, 0]) or tall % 2 == 0 or odd:
        return None
    return node.graph.call_function(convolution.OP, (x, weight, bias))


def attentions(node: Node) -> Node | None:
    """Attention over few frames by our kernel, over many pixels by cuDNN's."""
    if len(node.args) > 3 or set(node.kwargs) - {"scale"}:
        return None
    q, k, v = (_value(source) for source in node.args)
    alike = q.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2] and q.shape[3] == k.shape[3] == v.shape[3]
    width, length, wide = q.shape[-1], max(q.shape[-2], k.shape[-2]), q.dtype == torch.float32
    scale = node.kwargs.get("scale")
    taken = (*node.args, width**-0.5 if scale is None else scale)
    if alike and length <= (attention.LONGEST_WIDE if wide else attention.LONGEST) and width in attention.WIDTHS:
        return node.graph.call_function(attention.SHORT, taken)
    if not alike or width % 8 or width > attention.WIDEST or wide:
        return None
    return node.graph.call_function(attention.LONG, taken)


REWRITES: Mapping[Any, Rewrite] = {
    aten.group_norm.default: norms,
    aten.mul.Tensor: gates,
    aten.to.dtype: narrow_gates,
    aten.add.Tensor: endings,
    aten.transpose.int: turns,
    aten.linear.default: normed_layers,
    aten.conv2d.default: convolutions,
    aten.scaled_dot_product_attention.default: attentions,
}


def _value(node: Any) -> Tensor:
    """The fake tensor that a node stands for."""
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value
