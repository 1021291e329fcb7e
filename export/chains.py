"""Linear layers that follow each other with nothing in between, such as around an attention, as one."""

from collections.abc import Mapping, MutableMapping

import torch
from torch import Tensor

from stt2v.export.flat_program import FlatProgram, Node, arguments, calls, copied, trimmed

aten = torch.ops.aten


def compose_layers(program: FlatProgram) -> FlatProgram:
    """`program` with one layer for two where that is less work; what it computes stays the same."""
    module, weights = copied(program)
    for second in list(module.graph.find_nodes(op="call_function", target=aten.linear.default)):
        first = second.args[0]
        if _may_compose(first, second, weights):
            _compose(first, second, weights)
    return trimmed(module, weights)


def _may_compose(first: Node, second: Node, weights: Mapping[str, Tensor]) -> bool:
    """Whether only `second` takes what `first` gives, both have weights of their own, and one layer is less work."""
    if not calls(first, aten.linear.default) or len(first.users) > 1:
        return False
    places = [place for layer in (first, second) for place in layer.args[1:] if place is not None]
    if any(place.name not in weights or len(place.users) > 1 for place in places):
        return False
    (between, into), out = weights[first.args[1].name].shape, len(weights[second.args[1].name])
    return bool(out * into <= between * (out + into))


def _compose(first: Node, second: Node, weights: MutableMapping[str, Tensor]) -> None:
    """Have `second` compute both, under the name of its weight, and of the last bias that there is."""
    (x, inner, inner_bias), (_, outer, outer_bias) = map(arguments, (first, second))
    matrix, dtype = weights[outer.name].float(), weights[outer.name].dtype
    weights[outer.name] = (matrix @ weights[inner.name].float()).to(dtype)
    bias = outer_bias or inner_bias
    if inner_bias:
        shift = matrix @ weights[inner_bias.name].float()
        weights[bias.name] = (shift + weights[outer_bias.name].float() if outer_bias else shift).to(dtype)
    second.args = (x, outer, bias) if bias else (x, outer)
