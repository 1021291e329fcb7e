"""What our convolutions do while they write their maps, in place of kernels that read these again.

They add what is added to their maps next, and take the moments that a GroupNorm wants of them. In between lie views,
from frames [(B F), C, h, w] to clips [B, C, F, h * w] and back, which are the same memory where channels come last.
"""

import operator
from collections.abc import Iterable

import torch
from torch import fx

from stt2v.export.flat_program import Node, calls
from stt2v.export.kernel_pass import without_bias
from stt2v.kernels import convolution, moments

aten = torch.ops.aten
SHAPINGS = (aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default)
TURNS = (aten.transpose.int, aten.permute.default)


def put_epilogues(module: fx.GraphModule) -> dict[str, int]:
    """Change `module`; what it computes stays the same. Returns how many sums and moments convolutions make."""
    kinds = {"sums": (aten.add.Tensor, _add), "moments": (moments.OP, _take)}
    counts = {}
    for name, (target, rewrite) in kinds.items():
        counts[name] = sum(map(rewrite, module.graph.find_nodes(op="call_function", target=target)))
    module.graph.eliminate_dead_code()
    module.recompile()
    return counts


def _add(node: Node) -> bool:
    """Have a convolution add what `node` adds to its maps. Returns whether it can."""
    for maps, added in (node.args, node.args[::-1]):
        layer, views = _origin(maps)
        if calls(layer, convolution.OP) and len(layer.args) < 5 and _may_add(node, maps, (layer, *views), added):
            break
    else:
        return False
    call = node.graph.call_function
    x, weight, bias, scale = (*layer.args, None)[:4]
    with node.graph.inserting_before(node):
        if _is_in_place(layer, views):  # both have the same channels
            added, more = without_bias(added)
            bias = bias if more is None else call(aten.add.Tensor, (bias, more))
        for view in reversed(views):
            added = _undone(view, added)
        result = call(convolution.OP, (x, weight, bias, scale, added))
        result.meta["val"] = layer.meta["val"]
        for view in views:
            result = call(view.target, (result, *view.args[1:]))
            result.meta["val"] = view.meta["val"]
    node.replace_all_uses_with(result)
    node.graph.erase_node(node)
    return True


def _may_add(node: Node, maps: Node, path: Iterable[Node], added: Node) -> bool:
    """Whether `maps` and `added` are two such as `node` gives, and those on the path to it are not used otherwise."""
    if node.kwargs or not isinstance(added, fx.Node) or any(len(each.users) > 1 for each in path):
        return False
    kinds = {(each.meta["val"].shape, each.meta["val"].dtype) for each in (node, maps, added)}
    return len(kinds) == 1 and maps is not added


def _undone(view: Node, maps: Node) -> Node:
    """`maps`, as `view` gives them, as they are before it."""
    call = view.graph.call_function
    if view.target in SHAPINGS:
        return call(aten.reshape.default, (maps, list(view.args[0].meta["val"].shape)))
    if view.target == aten.permute.default:
        rank, order = len(view.args[1]), view.args[1]
        return call(aten.permute.default, (maps, sorted(range(rank), key=lambda axis: order[axis] % rank)))
    return call(view.target, (maps, *view.args[1:]))


def _take(node: Node) -> bool:
    """Have a convolution take the moments that `node` takes of its maps. Returns whether it can."""
    layer, views = _origin(node.args[0])
    batch, channels = node.args[0].meta["val"].shape[:2]
    if not _gives_maps(layer) or not _is_in_place(layer, views) or _frames(layer) % batch:
        return False
    call, both = node.graph.call_function, _with_moments(layer)
    with node.graph.inserting_before(node):
        for i, shape in enumerate(([2, batch, -1, channels], [batch, -1])):
            part = call(aten.reshape.default, (call(operator.getitem, (both, i + 1)), shape))
            for user in [user for user in node.users if user.args[1] == i]:
                user.replace_all_uses_with(part)
    return True


def _gives_maps(layer: Node) -> bool:
    """Whether `layer` is a convolution of ours, or what one gives beside moments."""
    if calls(layer, operator.getitem):
        return calls(layer.args[0], convolution.AND_MOMENTS) and layer.args[1] == 0
    return calls(layer, convolution.OP)


def _with_moments(layer: Node) -> Node:
    """The convolution `layer`, giving moments too."""
    if calls(layer, operator.getitem):
        return layer.args[0]
    with layer.graph.inserting_before(layer):
        both = layer.graph.call_function(convolution.AND_MOMENTS, layer.args)
        maps = layer.graph.call_function(operator.getitem, (both, 0))
    maps.meta["val"] = layer.meta["val"]
    layer.replace_all_uses_with(maps)
    layer.graph.erase_node(layer)
    return both


def _frames(layer: Node) -> int:
    """How many frames there are in what a convolution gives, by which it takes moments."""
    weight = (layer.args[0] if calls(layer, operator.getitem) else layer).args[1]
    batch, _, height, _ = layer.meta["val"].shape
    return int(batch * height if weight.meta["val"].shape[3] == 1 else batch)


def _origin(maps: Node) -> tuple[Node, list[Node]]:
    """What `maps` are views of, and the views in their order."""
    views: list[Node] = []
    while any(calls(maps, view) for view in (*SHAPINGS, *TURNS)):
        views.insert(0, maps)
        maps = maps.args[0]
    return maps, views


def _is_in_place(layer: Node, views: Iterable[Node]) -> bool:
    """Whether views of maps with their channels last are such maps again, of the same pixels in the same order."""
    maps = torch.empty(layer.meta["val"].shape, device="meta").to(memory_format=torch.channels_last)
    channels = maps.shape[1]
    for view in views:
        if view.target in TURNS:
            maps = view.target(maps, *view.args[1:])
            continue
        try:
            maps = maps.view(view.meta["val"].shape)
        except RuntimeError:  # it would have to be copied
            return False
    return maps.shape[1] == channels and maps.is_contiguous(memory_format=torch.channels_last)
