"""What layers make of weights alone, such as the embedding of each frame's number, worked out as an engine is built."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from stt2v.export.flat_program import FlatProgram, Node, calls, copied, is_steady, trimmed

aten = torch.ops.aten


def work_out(program: FlatProgram) -> FlatProgram:
    """`program` with such results as weights, in place of what gives them; what it computes stays the same."""
    module, weights = copied(program)
    fixed = _fixed(module.graph, weights)
    last = [node for node, layered in fixed.items() if layered and any(user not in fixed for user in node.users)]
    first_input = next(node for node in module.graph.find_nodes(op="placeholder") if node.name not in weights)
    values = _values(fixed, last, weights)
    for node in last:
        with module.graph.inserting_before(first_input):
            place = module.graph.placeholder(f"{node.name}_known")
        place.meta["val"] = node.meta["val"]
        weights[place.name] = values[node].contiguous()
        node.replace_all_uses_with(place)
    return trimmed(module, weights)


def _fixed(graph: torch.fx.Graph, weights: Mapping[str, Tensor]) -> dict[Node, bool]:
    """What depends on weights alone, in order, and whether a linear layer is in what gives it.

    What only makes more of a layer's result, as `expand` does, is left to the program.
    """
    fixed: dict[Node, bool] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in weights:
            fixed[node] = False
        elif is_steady(node) and all(source in fixed for source in node.all_input_nodes):
            layered = any(fixed[source] for source in node.all_input_nodes)
            if not (layered and _grows(node)):
                fixed[node] = layered or calls(node, aten.linear.default)
    return fixed


def _values(fixed: Mapping[Node, bool], last: list[Node], weights: Mapping[str, Tensor]) -> dict[Node, Any]:
    """What each of `last` is, and all that it is made of."""
    wanted = {*last}
    for node in reversed([*fixed]):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for node in filter(wanted.__contains__, fixed):
            if node.op == "placeholder":
                values[node] = weights[node.name]
            else:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
    return values


def _grows(node: Node) -> bool:
    """Whether `node` is larger than all that it is made of."""
    sizes = [source.meta["val"].numel() for source in node.all_input_nodes]
    return bool(node.meta["val"].numel() > max(sizes))
