"""What is added to all pixels of a convolution's maps, such as the time embedding of a UNet, as part of its bias.

A norm comes next, which reads its maps twice, so that adding could only be fused with what writes them. All frames have
the same time embedding, even where it is repeated for each.
"""

import torch
from torch import fx

from stt2v.export.flat_program import Node, arguments, calls

aten = torch.ops.aten
BY_ROWS = (aten.linear.default, aten.silu.default, aten.to.dtype)  # what gives equal rows for equal rows


def put_shifts_into_biases(module: fx.GraphModule) -> None:
    """Change `module`, so that a convolution's bias holds what one addition after it adds to each channel."""
    for node in list(module.graph.find_nodes(op="call_function", target=aten.add.Tensor)):
        for layer, shift in (node.args, node.args[::-1]):
            if not node.kwargs and _may_shift(layer, shift):
                _shift(node, layer, shift)
                break
    module.recompile()


def _may_shift(layer: Node, shift: Node) -> bool:
    """Whether `layer` is a convolution with a bias, not used otherwise, and `shift` is of its channels alone."""
    if not calls(layer, aten.conv2d.default) or not isinstance(shift, fx.Node) or shift is layer:
        return False
    if arguments(layer)[2] is None or len(layer.users) > 1:
        return False
    maps, added = layer.meta["val"], shift.meta["val"]
    if added.dtype != maps.dtype:
        return False
    one = added.shape in ((1, maps.shape[1], 1, 1), (maps.shape[1], 1, 1))
    return one or (added.shape == (*maps.shape[:2], 1, 1) and _has_equal_rows(shift))


def _has_equal_rows(node: Node) -> bool:
    """Whether `node`, [N, ...], is one row repeated, and what becomes of it."""
    while _keeps_rows(node):
        node = node.args[0]
    if not calls(node, aten.expand.default):
        return False
    one, rows = node.args[0].meta["val"], node.meta["val"]
    return bool(one.ndim == rows.ndim > 0 and one.shape[0] == 1)


def _keeps_rows(node: Node) -> bool:
    """Whether `node` has equal rows where its first argument has."""
    if calls(node, aten.repeat_interleave.self_int):
        return len(node.args) > 2 and node.args[2] == 0
    if calls(node, aten.unsqueeze.default):
        return bool(node.args[1] > 0)
    return any(calls(node, target) for target in BY_ROWS) and bool(node.meta["val"].ndim > 1)


def _shift(node: Node, layer: Node, shift: Node) -> None:
    x, weight, bias, *how = layer.args
    with node.graph.inserting_before(node):
        if shift.meta["val"].ndim == node.meta["val"].ndim:
            shift = node.graph.call_function(aten.slice.Tensor, (shift, 0, 0, 1))
        channels = node.graph.call_function(aten.reshape.default, (shift, [-1]))
        bias = node.graph.call_function(aten.add.Tensor, (bias, channels))
        shifted = node.graph.call_function(layer.target, (x, weight, bias, *how))
    shifted.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(shifted)
    node.graph.erase_node(node)
    node.graph.erase_node(layer)
