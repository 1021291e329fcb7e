"""What layers make of weights alone, such as the embedding of each frame's number, worked out as an engine is built."""

from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_arg

from stt2v.export.flat_program import FlatProgram, calls, copied, trimmed

aten = torch.ops.aten
Node = Any  # an fx.Node, whose arguments have a type that is a union of everything


def work_out(program: FlatProgram) -> FlatProgram:
    """`program` with such results as weights, in place of what gives them; what it computes stays the same."""
    module, weights = copied(program)
    values: dict[Node, Tensor] = {}
    fixed: dict[Node, bool] = {}  # whether a linear layer is in what gives it
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.name in weights:
            values[node], fixed[node] = weights[node.name], False
        elif node.op == "call_function" and all(source in fixed for source in node.all_input_nodes):
            sources = [fixed[source] for source in node.all_input_nodes]
            fixed[node] = calls(node, aten.linear.default) or any(sources)
    first_input = next(node for node in module.graph.nodes if node not in values)
    with torch.no_grad():
        for node in [node for node, layered in fixed.items() if layered and _is_last(node, fixed)]:
            with module.graph.inserting_before(first_input):
                place = module.graph.placeholder(f"{node.name}_known")
            place.meta["val"] = node.meta["val"]
            values[place] = weights[place.name] = _value(node, values).contiguous()
            node.replace_all_uses_with(place)
    return trimmed(module, weights)


def _is_last(node: Node, fixed: dict[Node, bool]) -> bool:
    """Whether anything that is not fixed takes `node`, a tensor."""
    return isinstance(node.meta["val"], Tensor) and any(user not in fixed for user in node.users)


def _value(node: Node, values: dict[Node, Any]) -> Any:
    """What `node` gives, and on the way all that it is made of."""
    if node not in values:
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _value(source, values))
        values[node] = node.target(*args, **kwargs)
    return values[node]
