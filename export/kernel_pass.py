"""The pass that puts our kernels into a captured program; what it computes stays the same."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from stt2v.kernels import attention, geglu, group_norm

aten = torch.ops.aten
Node = Any  # an fx.Node, whose arguments have a type that is a union of everything
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
            result.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(result)
            counts[rewrite.__name__] += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return counts


def norms(node: Node) -> Node | None:
    """GroupNorm over maps, or over all frames of a clip, as factors and one multiplication and addition."""
    x, groups, weight, bias, eps, *_ = node.args
    value = _value(x)
    if value.ndim not in (4, 5) or weight is None or bias is None:
        return None
    call = node.graph.call_function
    factors = call(group_norm.OP, (_as_maps(x), weight, bias, groups, eps))
    shape = [*value.shape[:2], *[1] * (value.ndim - 2)]
    scale, shift = (call(aten.reshape.default, (call(operator.getitem, (factors, i)), shape)) for i in (0, 1))
    wide = call(aten.to.dtype, (x, torch.float32))
    sum_ = call(aten.add.Tensor, (call(aten.mul.Tensor, (wide, scale)), shift))
    return call(aten.to.dtype, (sum_, value.dtype))


def temporal_convolutions(node: Node) -> Node | None:
    """A convolution over frames alone as one over maps of frames by pixels, which stay channels-last.

    For one over volumes cuDNN puts every tensor into another order and back.
    """
    x, weight, bias, *given = node.args
    defaults: list[Any] = [[1, 1, 1], [0, 0, 0], [1, 1, 1], 1]
    stride, padding, dilation, groups = given + defaults[len(given) :]
    over_frames = list(_value(weight).shape[3:]) == [1, 1] and list(padding[1:]) == [0, 0]
    if not over_frames or {*stride, *dilation, groups} != {1}:
        return None
    call = node.graph.call_function
    kernel = call(aten.reshape.default, (weight, [*_value(weight).shape[:3], 1]))
    maps = call(aten.conv2d.default, (_as_maps(x), kernel, bias, [1, 1], [padding[0], 0]))
    return call(aten.reshape.default, (maps, list(_value(node).shape)))


def _as_maps(x: Node) -> Node:
    """[N, C, H, W] as it is, [N, C, F, H, W] as maps of frames by pixels: [N, C, F, H * W]."""
    shape = _value(x).shape
    if len(shape) == 4:
        return x
    return x.graph.call_function(aten.reshape.default, (x, [*shape[:3], shape[3] * shape[4]]))


def gates(node: Node) -> Node | None:
    """linear -> chunk -> kept * gelu(gate) as one kernel; `node` is the product."""
    kept, gelu = node.args
    if not _calls(gelu, aten.gelu.default) or gelu.kwargs:
        return None
    gate = gelu.args[0]
    if not (_calls(kept, operator.getitem) and _calls(gate, operator.getitem)):
        return None
    chunk = gate.args[0]
    if chunk is not kept.args[0] or (kept.args[1], gate.args[1]) != (0, 1) or not _calls(chunk, aten.chunk.default):
        return None
    linear, parts, *axis = chunk.args
    if not _calls(linear, aten.linear.default) or parts != 2 or axis not in ([-1], [_value(linear).ndim - 1]):
        return None
    if len(linear.args) < 3 or len(linear.users) > 1:
        return None
    return node.graph.call_function(geglu.OP, linear.args)


def attentions(node: Node) -> Node | None:
    """Attention over few frames by our kernel, over many pixels by cuDNN's."""
    if len(node.args) > 3 or set(node.kwargs) - {"scale"}:
        return None
    q, k, v = node.args
    width, longest = _value(q).shape[-1], max(_value(q).shape[-2], _value(k).shape[-2])
    scale = node.kwargs.get("scale") or width**-0.5
    if longest <= attention.LONGEST and width in attention.WIDTHS:
        return node.graph.call_function(attention.SHORT, (q, k, v, scale))
    if width % 8 or width > attention.WIDEST or _value(q).dtype == torch.float32:
        return None
    return node.graph.call_function(attention.LONG, (q, k, v, scale))


REWRITES: Mapping[Any, Rewrite] = {
    aten.group_norm.default: norms,
    aten.conv3d.default: temporal_convolutions,
    aten.mul.Tensor: gates,
    aten.scaled_dot_product_attention.default: attentions,
}


def _calls(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target == target


def _value(node: Any) -> Tensor:
    """The fake tensor that a node stands for."""
    value = node.meta["val"]
    assert isinstance(value, Tensor)
    return value
