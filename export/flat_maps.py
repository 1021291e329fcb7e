"""Clips [B, C, F, h, w] as maps of frames by pixels, [B, C, F, h * w], where nothing looks across pixels.

In channels-last order both lie alike in memory, so nothing moves; and for 2-D maps there are faster convolutions, and
our kernels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stt2v.export.flat_program import FlatProgram, Node, copied, laid_out

aten = torch.ops.aten


def flat_maps(program: FlatProgram) -> FlatProgram:
    """`program` with GroupNorm and (k, 1, 1) convolutions of clips on maps; what it computes stays the same."""
    module, weights = copied(program)
    for node in list(module.graph.nodes):
        if node.target == aten.group_norm.default and node.meta["val"].ndim == 5:
            _on_maps(node, aten.group_norm.default, node.args[1:])
        elif node.target == aten.conv3d.default and _is_over_frames(node, weights):
            _, weight, bias, stride, padding = node.args
            weights[weight.name] = laid_out(weights[weight.name][..., 0])
            weight.meta["val"] = weight.meta["val"][..., 0]
            _on_maps(node, aten.conv2d.default, (weight, bias, stride[:2], padding[:2]))
    module.recompile()
    return FlatProgram(module, weights)


def _is_over_frames(node: Node, weights: Mapping[str, Tensor]) -> bool:
    """Whether a 3-D convolution sees, and steps over, one pixel at a time."""
    if len(node.args) != 5 or node.meta["val"].ndim != 5:
        return False
    _, weight, _, stride, padding = node.args
    if weight.name not in weights or len(weight.users) > 1:
        return False
    return weights[weight.name].shape[3:] == (1, 1) and stride[1:] == [1, 1] and padding[1:] == [0, 0]


def _on_maps(node: Node, operation: Any, arguments: tuple[Any, ...]) -> None:
    """Have `node` computed by `operation` on maps instead."""
    call, value = node.graph.call_function, node.meta["val"]
    with node.graph.inserting_before(node):
        shape = node.args[0].meta["val"].shape
        maps = call(aten.reshape.default, (node.args[0], [*shape[:3], -1]))
        maps.meta["val"] = node.args[0].meta["val"].reshape(*shape[:3], -1)
        result = call(operation, (maps, *arguments))
        result.meta["val"] = value.reshape(*value.shape[:3], -1)
        back = call(aten.reshape.default, (result, list(value.shape)))
    back.meta["val"] = value
    node.replace_all_uses_with(back)
    node.graph.erase_node(node)
