"""Ends of transformers in a captured program, with fewer passes over their tokens.

A transformer of maps adds a linear layer of its tokens to the map that it began with, and its tokens are the sum of
what they were and of its last block's last layer: `x + P (before + W gated + b) + c`. That is
`x + P W gated + P before + P b + c`, so neither what W gives nor the sum is written, and the two products may be one
(`kernels/linear.py`). A spatio-temporal one blends the tokens of its last two blocks, `tokens + share (before + W gated
+ b - tokens)`: then W has the share too, and `before` becomes `tokens + share (before - tokens)`, which can be worked
out where `before` is.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.pattern_matcher import CallFunction, Ignored, KeywordArg
from torch.fx.node import map_arg

from stt2v.export.flat_program import FlatProgram, Node, copied, found, trimmed
from stt2v.export.shares import number

aten = torch.ops.aten
LAST = CallFunction(aten.linear.default, *map(KeywordArg, ("gated", "inner", "inner_bias")))


def _blend() -> CallFunction:
    """[B, F, P, C]: tokens, and a share of how far they are from what comes `before` the last layer, and that layer."""
    moving = CallFunction(aten.add.Tensor, KeywordArg("before"), LAST)
    difference = CallFunction(aten.sub.Tensor, CallFunction(aten.transpose.int, moving, 1, 2), KeywordArg("tokens"))
    change = CallFunction(aten.mul.Tensor, KeywordArg("share"), difference)
    return CallFunction(aten.add.Tensor, KeywordArg("tokens"), change)


def _layer(tokens: CallFunction) -> CallFunction:
    return CallFunction(aten.linear.default, tokens, KeywordArg("outer"), KeywordArg("outer_bias"))


def _last(maps: CallFunction, *axes: int) -> CallFunction:
    """`maps` with their channels, [..., C, h, w], innermost in memory, which `axes` put last."""
    back = sorted(range(len(axes)), key=axes.__getitem__)
    ordered = CallFunction(aten.contiguous.default, CallFunction(aten.permute.default, maps, [*axes]))
    return CallFunction(aten.permute.default, ordered, back)


def _of_blends() -> CallFunction:
    rows = _layer(CallFunction(aten.flatten.using_ints, _blend(), 0, 1))
    maps = CallFunction(aten.reshape.default, CallFunction(aten.transpose.int, rows, 1, 2), Ignored())
    return CallFunction(aten.add.Tensor, KeywordArg("x"), maps)


def _over_pixels() -> CallFunction:
    """The end of diffusers' Transformer2DModel, whose tokens are [N, P, C]."""
    rows = CallFunction(
        aten.reshape.default, _layer(CallFunction(aten.add.Tensor, LAST, KeywordArg("before"))), Ignored()
    )
    maps = _last(CallFunction(aten.permute.default, rows, [0, 3, 1, 2]), 0, 2, 3, 1)
    return CallFunction(aten.add.Tensor, maps, KeywordArg("x"))


def _over_frames() -> CallFunction:
    """The end of diffusers' TransformerTemporalModel, whose tokens are [(B P), F, C]."""
    rows = _layer(CallFunction(aten.add.Tensor, LAST, KeywordArg("before")))
    for axis in (0, 1):
        rows = CallFunction(aten.unsqueeze.default, rows, axis)
    clips = CallFunction(aten.reshape.default, rows, KeywordArg("clips"))
    maps = _last(CallFunction(aten.permute.default, clips, [0, 3, 4, 1, 2]), 0, 1, 3, 4, 2)
    return CallFunction(aten.add.Tensor, CallFunction(aten.reshape.default, maps, Ignored()), KeywordArg("x"))


Sizes = tuple[int, int, int]
ENDS: tuple[tuple[CallFunction, Callable[[torch.Size, int], Sizes]], ...] = (
    (_of_blends(), lambda tokens, pixels: (tokens[0], tokens[1], tokens[2])),
    (_over_pixels(), lambda tokens, pixels: (tokens[0], pixels, 1)),
    (_over_frames(), lambda tokens, pixels: (tokens[0] // pixels, pixels, tokens[1])),
)
"""Patterns, and the clips, pixels and frames of what comes before their last layer, whose map has so many pixels."""


def merge_ends(program: FlatProgram) -> FlatProgram:
    """`program` with the layers at such ends merged; what it computes stays the same."""
    module, weights = copied(program)
    for node in list(module.graph.find_nodes(op="call_function", target=aten.add.Tensor)):
        for pattern, sizes_of in ENDS:
            names = found(pattern, node)
            if names and (sizes := _sizes(node, names, sizes_of)) and _merge_weights(weights, names):
                _merge(node, names, sizes)
    return trimmed(module, weights)


def _sizes(node: Node, names: Mapping[str, Any], sizes_of: Callable[[torch.Size, int], Sizes]) -> Sizes | None:
    """Clips, pixels and frames, if all shapes are what they say, so that no sum makes more of what it adds."""
    shapes = {name: named.meta["val"].shape for name, named in names.items() if isinstance(named, fx.Node)}
    value, before, gated = node.meta["val"].shape, shapes["before"], shapes["gated"]
    if len(value) != 4 or len(before) < 3 or shapes["x"] != value:
        return None
    maps, columns, height, width = value
    clips, pixels, frames = sizes = sizes_of(before, height * width)
    rows, tokens = clips * pixels * frames, (clips, frames, pixels, before[-1])
    whole = rows == before[:-1].numel() == gated[:-1].numel() == maps * pixels and pixels == height * width
    fit = shapes["outer"] == (columns, before[-1]) and shapes["inner"] == (before[-1], gated[-1])
    blended = shapes.get("tokens", tokens) == tokens and len(shapes.get("share", ())) <= len(tokens)
    laid = [*names.get("clips", ())] in ([], [clips, height, width, frames, columns])
    return sizes if whole and fit and blended and laid else None


def _merge_weights(weights: MutableMapping[str, Tensor], names: Mapping[str, Node]) -> bool:
    """Make W and its bias those of both layers, if nothing else has them and the share is one number."""
    places = [names[name] for name in ("inner", "inner_bias", "outer", "outer_bias")]
    own = all(isinstance(place, fx.Node) and place.name in weights and len(place.users) == 1 for place in places)
    share = number(names["share"], weights) if "share" in names else torch.ones(())
    if share is None or not own:
        return False
    inner, inner_bias, outer, outer_bias = (weights[place.name].float() for place in places)
    matrix = share.float() * outer
    for place, merged in zip(places, (matrix @ inner, outer_bias + matrix @ inner_bias), strict=False):
        weights[place.name] = merged.to(weights[place.name].dtype)
        place.meta["val"] = place.meta["val"].new_empty(merged.shape)
    return True


def _merge(node: Node, names: Mapping[str, Node], sizes: Sizes) -> None:
    """Put merged layers, of [B, P, F, C], in the place of `node`, the last of what has `names`."""
    with node.graph.inserting_before(node):
        mixed = _call(aten.reshape.default, names["before"], [*sizes, -1])
        if "share" in names:
            still = _call(aten.permute.default, names["tokens"], [0, 2, 1, 3])
            change = _call(aten.mul.Tensor, names["share"], _call(aten.sub.Tensor, mixed, still))
            mixed = _call(aten.add.Tensor, still, change)
        second = _call(aten.linear.default, _call(aten.contiguous.default, mixed), names["outer"])
        first = _call(aten.linear.default, *(names[name] for name in ("gated", "inner", "inner_bias")))
        both = _call(aten.add.Tensor, _call(aten.reshape.default, first, [*sizes, -1]), second)
        clips, pixels, frames = sizes
        # Summed with channels innermost: the compiler would put what it makes of a map of [C, h, w] in that order.
        x = _call(aten.reshape.default, names["x"], [clips, frames, -1, pixels])
        rows = _call(aten.permute.default, x, [0, 1, 3, 2])
        sum_ = _call(aten.add.Tensor, rows, _call(aten.permute.default, both, [0, 2, 1, 3]))
        maps = _call(aten.permute.default, sum_, [0, 1, 3, 2])
        node.replace_all_uses_with(_call(aten.reshape.default, maps, [*node.meta["val"].shape]))


def _call(target: Any, first: Node, *others: Any) -> Node:
    """A new node, where the graph of its `first` argument inserts them."""
    arguments = (first, *others)
    result = first.graph.call_function(target, arguments)
    result.meta["val"] = target(*map_arg(arguments, lambda source: source.meta["val"]))
    return result
