"""Linear layers that see the same rows, such as those of queries, keys and values, as one: the rows are read once."""

import operator
from collections import defaultdict
from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

from stt2v.export.flat_program import FlatProgram, Node, arguments, copied, trimmed

aten = torch.ops.aten
FEWEST_ROWS = 512  # below, what takes time is reading the weights
WIDEST = 640  # rows that it pays to read once in float16 (`bench/RESULTS.md`); FP8 also quantises them once


def join_layers(program: FlatProgram) -> FlatProgram:
    """`program` with the layers without a bias that see the same rows as one; what it computes stays the same."""
    module, weights = copied(program)
    groups = defaultdict(list)
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        if _may_join(node, weights):
            groups[node.args[0]].append(node)
    for layers in groups.values():
        if len(layers) > 1:
            _join(layers, weights)
    return trimmed(module, weights)


def _may_join(layer: Node, weights: Mapping[str, Tensor]) -> bool:
    _, place, bias = arguments(layer)
    if bias or place.name not in weights or len(place.users) > 1:
        return False
    weight, rows = weights[place.name], layer.meta["val"].shape[:-1].numel()
    return rows >= FEWEST_ROWS and (weight.dtype != torch.float16 or weight.shape[1] <= WIDEST)


def _join(layers: Sequence[Node], weights: MutableMapping[str, Tensor]) -> None:
    """Have the first of `layers` compute all, under the name of its weight."""
    (first, *_), (x, place) = layers, layers[0].args
    places = [layer.args[1] for layer in layers]
    sizes = [len(weights[each.name]) for each in places]
    weights[place.name] = torch.cat([weights[each.name] for each in places])
    call = first.graph.call_function
    with first.graph.inserting_before(first):
        joined = call(aten.linear.default, (x, place))
        parts = call(aten.split_with_sizes.default, (joined, sizes, -1))
        views = [call(operator.getitem, (parts, index)) for index in range(len(layers))]
    joined.meta["val"] = x.meta["val"].new_empty(*x.meta["val"].shape[:-1], sum(sizes))
    values = joined.meta["val"].split(sizes, -1)
    for layer, view, value in zip(layers, views, values, strict=True):
        view.meta["val"] = value
        layer.replace_all_uses_with(view)
        first.graph.erase_node(layer)
