"""What all maps of a convolution are multiplied by, such as the share of a temporal block, in its weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from stt2v.export.flat_program import FlatProgram, Node, arguments, calls, copied, is_steady, laid_out, trimmed

aten = torch.ops.aten


def put_shares_into_weights(program: FlatProgram) -> FlatProgram:
    """`program` without multiplications of what convolutions give by one number that depends on weights alone."""
    module, weights = copied(program)
    for node in list(module.graph.find_nodes(op="call_function", target=aten.mul.Tensor)):
        for layer, factor in (node.args, node.args[::-1]):
            share = number(factor, weights) if _has_own_weights(layer, weights) and _is_like(node, layer) else None
            if share is not None:
                for place in layer.args[1:3]:
                    weight = weights[place.name]
                    weights[place.name] = laid_out((weight.float() * share.float()).to(weight.dtype))
                node.replace_all_uses_with(layer)
                node.graph.erase_node(node)
                break
    return trimmed(module, weights)


def _has_own_weights(layer: Any, weights: Mapping[str, Tensor]) -> bool:
    """Whether `layer` is a convolution with a bias, and neither it nor its weights are used otherwise."""
    if not calls(layer, aten.conv2d.default) or arguments(layer)[2] is None:
        return False
    own = layer.args[1:3]
    return all(place.name in weights for place in own) and all(len(each.users) == 1 for each in (layer, *own))


def _is_like(product: Node, layer: Node) -> bool:
    """Whether a product is of the shape and type of what a layer gives, as it is but for a factor of more axes."""
    ours, theirs = product.meta["val"], layer.meta["val"]
    return bool(ours.shape == theirs.shape and ours.dtype == theirs.dtype)


def number(factor: Node, weights: Mapping[str, Tensor]) -> Tensor | None:
    """What `factor` is, [], if it is one number and weights alone say so."""
    found = _known(factor, weights)
    return None if found is None else found.reshape(())


def _known(factor: Node, weights: Mapping[str, Tensor]) -> Tensor | None:
    """What `factor` is, if it is of one element and weights alone say so."""
    value = factor.meta.get("val") if isinstance(factor, fx.Node) else None
    if not isinstance(value, Tensor) or value.numel() != 1:
        return None
    if not is_steady(factor):  # a weight, or what depends on more
        return weights.get(factor.name)
    operation: Any = factor.target
    found = {source: _known(source, weights) for source in factor.all_input_nodes}
    if None in found.values():
        return None
    given, named = fx.map_arg((factor.args, factor.kwargs), found.__getitem__)
    result: Tensor = operation(*given, **named)
    return result
