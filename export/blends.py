"""Ends of spatio-temporal transformers in a captured program, with fewer passes over their tokens.

Such a transformer blends the tokens of its last two blocks, and adds a linear layer of that to the map that it began
with: `x + P (tokens + share (before + W gated + b - tokens)) + c`. That is `x + share P W gated + P m + share P b + c`
with `m = tokens + share (before - tokens)`, which can be worked out where `before` is. So neither what W gives nor the
blend is written, and the two products may be one (`kernels/linear.py`).
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.pattern_matcher import CallFunction, Ignored, KeywordArg
from torch.fx.node import map_arg

from stt2v.export.flat_program import FlatProgram, copied, found, trimmed
from stt2v.export.shares import number

aten = torch.ops.aten
Node = Any  # an fx.Node, whose arguments have a type that is a union of everything


def _blend() -> CallFunction:
    """[B, F, P, C]: tokens, and a share of how far they are from what comes `before` the last layer, and that layer."""
    layer = CallFunction(aten.linear.default, *map(KeywordArg, ("gated", "inner", "inner_bias")))
    moving = CallFunction(aten.add.Tensor, KeywordArg("before"), layer)
    difference = CallFunction(aten.sub.Tensor, CallFunction(aten.transpose.int, moving, 1, 2), KeywordArg("tokens"))
    change = CallFunction(aten.mul.Tensor, KeywordArg("share"), difference)
    return CallFunction(aten.add.Tensor, KeywordArg("tokens"), change)


def _ending() -> CallFunction:
    rows = CallFunction(aten.flatten.using_ints, _blend(), 0, 1)
    layer = CallFunction(aten.linear.default, rows, KeywordArg("outer"), KeywordArg("outer_bias"))
    maps = CallFunction(aten.reshape.default, CallFunction(aten.transpose.int, layer, 1, 2), Ignored())
    return CallFunction(aten.add.Tensor, KeywordArg("x"), maps)


ENDING = _ending()


def merge_blends(program: FlatProgram) -> FlatProgram:
    """`program` with the layers at such ends merged; what it computes stays the same."""
    module, weights = copied(program)
    for node in list(module.graph.find_nodes(op="call_function", target=aten.add.Tensor)):
        names = found(ENDING, node)
        if names and _merge_weights(weights, names):
            _merge(node, names)
    return trimmed(module, weights)


def _merge_weights(weights: MutableMapping[str, Tensor], names: Mapping[str, Node]) -> bool:
    """Make W and its bias those of both layers, if nothing else has them and the share is one number."""
    places = [names[name] for name in ("inner", "inner_bias", "outer", "outer_bias")]
    own = all(isinstance(place, fx.Node) and place.name in weights and len(place.users) == 1 for place in places)
    share = number(names["share"], weights)
    if share is None or not own:
        return False
    inner, inner_bias, outer, outer_bias = (weights[place.name].float() for place in places)
    matrix = share.float() * outer
    for place, merged in zip(places, (matrix @ inner, outer_bias + matrix @ inner_bias), strict=False):
        weights[place.name] = merged.to(weights[place.name].dtype)
    return True


def _merge(node: Node, names: Mapping[str, Node]) -> None:
    """Put merged layers in the place of `node`, the last of what has `names`."""
    with node.graph.inserting_before(node):
        still = _call(aten.permute.default, names["tokens"], [0, 2, 1, 3])
        change = _call(aten.mul.Tensor, names["share"], _call(aten.sub.Tensor, names["before"], still))
        mixed = _call(aten.contiguous.default, _call(aten.add.Tensor, still, change))
        first = _call(aten.linear.default, *(names[name] for name in ("gated", "inner", "inner_bias")))
        both = _call(aten.add.Tensor, first, _call(aten.linear.default, mixed, names["outer"]))
        maps = _call(aten.reshape.default, _call(aten.permute.default, both, [0, 2, 3, 1]), [*node.meta["val"].shape])
        node.replace_all_uses_with(_call(aten.add.Tensor, names["x"], maps))


def _call(target: Any, first: Node, *others: Any) -> Node:
    """A new node, where the graph of its `first` argument inserts them."""
    arguments = (first, *others)
    result = first.graph.call_function(target, arguments)
    result.meta["val"] = target(*map_arg(arguments, lambda source: source.meta["val"]))
    return result
