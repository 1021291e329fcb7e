"""Biases of linear layers whose result is added to something: they are added there, where it costs nothing.

With a bias to add, cuBLAS takes other kernels, which are slower where sums are short (`bench/RESULTS.md`).
"""

import torch
from torch import fx

from stt2v.export.flat_program import Node, arguments, calls

aten = torch.ops.aten
VIEWS = (aten.reshape.default, aten.unflatten.int, aten.transpose.int, aten.permute.default)


def leave_biases_to_sums(module: fx.GraphModule) -> None:
    """Change `module`; what it computes stays the same."""
    for node in module.graph.find_nodes(op="call_function", target=aten.linear.default):
        x, weight, bias = arguments(node)
        if bias and node.meta["val"].ndim > 2 and _is_added(node):
            with module.graph.inserting_before(node):
                bare = module.graph.call_function(node.target, (x, weight))
                sum_ = module.graph.call_function(aten.add.Tensor, (bare, bias))
            node.replace_all_uses_with(sum_, propagate_meta=True)
            module.graph.erase_node(node)
    module.recompile()


def _is_added(node: Node) -> bool:
    """Whether all that becomes of `node` is that it is laid otherwise, if need be, and something added."""
    while len(node.users) == 1:
        (node,) = node.users
        if calls(node, aten.add.Tensor):
            return True
        if not any(calls(node, target) for target in VIEWS):
            return False
    return False
