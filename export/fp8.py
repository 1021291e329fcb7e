"""FP8 (e4m3) for the linear layers of a captured program, as Hopper's scaled products take them.

Weights have one scale an output channel, worked out here; activations have one a row, worked out as the program runs,
so nothing needs calibration (FP8 formats for deep learning, Micikevicius et al. 2022).
"""

from typing import Any

import torch
from torch import Tensor

from stt2v.export.flat_program import FlatProgram
from stt2v.kernels.fp8 import LARGEST, PRODUCT, SMALLEST_SCALE, TYPE, quantised_rows

aten = torch.ops.aten
Node = Any  # an fx.Node, whose arguments have a type that is a union of everything
FEWEST_ROWS, FEWEST_WEIGHTS = 512, 1 << 20  # below, quantising costs more than it saves
GRANULE = 16  # rows and columns of a product in FP8 come in multiples


def quantise(program: FlatProgram, fewest: int = FEWEST_WEIGHTS) -> tuple[FlatProgram, int]:
    """`program` with its linear layers of `fewest` weights and more in FP8, and how many there are."""
    weights = dict(program.weights)
    count = 0
    for node in list(program.module.graph.find_nodes(op="call_function", target=aten.linear.default)):
        if not _worthwhile(node, weights, fewest):
            continue
        place = node.args[1]
        weights[place.name], scale = quantised_rows(weights[place.name])
        with node.graph.inserting_after(place):
            scales = node.graph.placeholder(f"{place.name}_scale")
        weights[scales.name] = scale.reshape(1, -1)
        with node.graph.inserting_before(node):
            product = _product(node, place, scales)
        product.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(product)
        node.graph.erase_node(node)
        count += 1
    program.module.recompile()
    names = [node.name for node in program.module.graph.find_nodes(op="placeholder")]
    return FlatProgram(program.module, {name: weights[name] for name in names if name in weights}), count


def _worthwhile(node: Node, weights: dict[str, Tensor], fewest: int) -> bool:
    x, weight = node.args[0].meta["val"], node.args[1]
    if weight.name not in weights or len(weight.users) > 1:
        return False
    rows, shape = x.numel() // x.shape[-1], weights[weight.name].shape
    return rows >= FEWEST_ROWS and shape.numel() >= fewest and not any(size % GRANULE for size in shape)


def _product(node: Node, weight: Node, scales: Node) -> Node:
    """The layer of `node` with a weight in FP8. Written out, so that the compiler fuses what quantises its input."""
    call = node.graph.call_function
    x, _, *bias = node.args
    value, result = x.meta["val"], node.meta["val"]
    wide = call(aten.to.dtype, (call(aten.reshape.default, (x, [-1, value.shape[-1]])), torch.float32))
    most = call(aten.amax.default, (call(aten.abs.default, (wide,)), [-1], True))
    scale = call(aten.clamp_min.default, (call(aten.mul.Tensor, (most, 1 / LARGEST)), SMALLEST_SCALE))
    rows = call(aten.to.dtype, (call(aten.div.Tensor, (wide, scale)), TYPE))
    product = call(PRODUCT, (rows, weight, scale, scales))
    out = call(aten.reshape.default, (product, list(result.shape)))
    if bias and bias[0] is not None:
        out = call(aten.add.Tensor, (out, bias[0]))
    return out if result.dtype == torch.bfloat16 else call(aten.to.dtype, (out, result.dtype))
