"""A captured program as one function of its weights and inputs, as PyTorch's compiler wants it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


@dataclass(frozen=True)
class FlatProgram:
    """A graph whose placeholders are its weights, in the order of `weights`, and then its inputs.

    So one copy of the weights, wherever it lies, serves every graph that has them.
    """

    module: fx.GraphModule
    weights: Mapping[str, Tensor]


def flatten(exported: ExportedProgram) -> FlatProgram:
    """`exported` without checks of its own; convolution weights lie channels-last, so that all maps do."""
    stored = {**exported.state_dict, **exported.constants}
    weights = {
        spec.arg.name: laid_out(stored[spec.target].detach())
        for spec in exported.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and spec.target
    }
    module = fx.GraphModule(exported.graph_module, exported.graph_module.graph)
    for node in list(module.graph.nodes):
        if node.target == torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.target == torch.ops.aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return FlatProgram(module, weights)


def laid_out(weight: Tensor) -> Tensor:
    """`weight` in the memory order that kernels want."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight.contiguous()
