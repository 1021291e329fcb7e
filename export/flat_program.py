"""A captured program as one function of its weights and inputs, as PyTorch's compiler wants it."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._inductor.pattern_matcher import Match, PatternExpr
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from stt2v.export.quiet import quiet

aten = torch.ops.aten
Node = Any
"""An fx.Node of a pass, whose arguments have a type that is a union of everything."""


@dataclass(frozen=True)
class FlatProgram:
    """A graph whose placeholders are its weights, in the order of `weights`, and then its inputs.

    So one copy of the weights, wherever it lies, serves every graph that has them.
    """

    module: fx.GraphModule
    weights: Mapping[str, Tensor]


def flatten(exported: ExportedProgram) -> FlatProgram:
    """A copy of `exported` without what gives what it gets; maps lie channels-last, as convolutions want them.

    A program that writes into a tensor is made to give another one instead: whoever rewrites one may then take an
    operation to another place, and a tensor for a copy of it. What it would leave in its weights and inputs is lost.
    """
    if any(_writes(node) for node in exported.graph.nodes):
        with quiet("torch.export"):
            exported = exported.run_decompositions({})
    stored = {**exported.state_dict, **exported.constants}
    weights = {
        spec.arg.name: laid_out(stored[spec.target].detach())
        for spec in exported.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and spec.target
    }
    module = fx.GraphModule(exported.graph_module, copy.deepcopy(exported.graph_module.graph))
    _leave_user_outputs(module.graph.output_node(), exported.graph_signature.user_outputs)
    for node in list(module.graph.nodes):
        if node.target == aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif _gives_what_it_gets(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target == aten.contiguous.default and node.meta["val"].ndim in (4, 5):
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(_channels_last(node.args[0], node.meta["val"].ndim), propagate_meta=True)
            module.graph.erase_node(node)
        elif node.target == aten.view.default:  # asks for an order that there may not be now
            node.target = aten.reshape.default
    module.recompile()
    return FlatProgram(module, weights)


def _writes(node: fx.Node) -> bool:
    """Whether `node` changes what it gets."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.is_mutable)


def _leave_user_outputs(output: fx.Node, names: Collection[Any]) -> None:
    """Leave out of what a program gives the new values of its weights and inputs, which come first."""
    given: Any = output.args[0]
    output.args = (tuple(given[len(given) - len(names) :]),)


def _gives_what_it_gets(node: fx.Node) -> bool:
    """Whether `node` is dropout outside of training, or divides by 1, as diffusers does the sums of residual blocks."""
    if calls(node, aten.dropout.default):
        return not node.args[2]
    if not calls(node, aten.div.Tensor) or node.args[1] != 1.0:
        return False
    divided: Any = node.args[0]
    return bool(divided.meta["val"].dtype == node.meta["val"].dtype)


def copied(program: FlatProgram) -> tuple[fx.GraphModule, dict[str, Tensor]]:
    """Module and weights of `program`, to be changed: the graph is another, the tensors are the same."""
    return fx.GraphModule(program.module, copy.deepcopy(program.module.graph)), dict(program.weights)


def trimmed(module: fx.GraphModule, weights: Mapping[str, Tensor]) -> FlatProgram:
    """The program of a changed module and its weights, without what nothing uses; places are of the weights' shapes."""
    module.graph.eliminate_dead_code()
    places = [place for place in module.graph.find_nodes(op="placeholder") if place.name in weights]
    for place in places:
        place.meta["val"] = place.meta["val"].new_empty(weights[place.name].shape)
        if not place.users:
            module.graph.erase_node(place)
    module.recompile()
    return FlatProgram(module, {place.name: weights[place.name] for place in places if place.users})


def _channels_last(maps: fx.Node, rank: int) -> fx.Node:
    """`maps`, [..., C, H, W], with the channels innermost in memory."""
    call, leading = maps.graph.call_function, range(rank - 3)
    last = call(aten.permute.default, (maps, [*leading, rank - 2, rank - 1, rank - 3]))
    return call(
        aten.permute.default, (call(aten.contiguous.default, (last,)), [*leading, rank - 1, rank - 3, rank - 2])
    )


def laid_out(weight: Tensor) -> Tensor:
    """`weight` in the memory order that kernels want."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return weight.contiguous(memory_format=formats.get(weight.ndim, torch.contiguous_format))


def found(pattern: PatternExpr, node: fx.Node) -> Mapping[str, Any] | None:
    """What `pattern` names where `node` is the last of it, each a node or a list of numbers.

    It sees no keywords, such as the `alpha` of a sum.
    """
    match = pattern.match(node)
    if not isinstance(match, Match) or any(each.kwargs for each in match.nodes):
        return None
    return match.kwargs if all(isinstance(named, fx.Node | list) for named in match.kwargs.values()) else None


def calls(node: Any, target: Any) -> bool:
    """Whether `node` of a graph is a call of `target`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target == target


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a call of an operator, with those that are left to their defaults."""
    target: Any = node.target
    defaults = [argument.default_value for argument in target._schema.arguments if not argument.kwarg_only]
    return (*node.args, *defaults[len(node.args) :])


def is_steady(node: fx.Node) -> bool:
    """Whether `node` is a call that gives one tensor, and the same each time."""
    tags = getattr(node.target, "tags", ())
    whole = node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    return whole and torch.Tag.nondeterministic_seeded not in tags
