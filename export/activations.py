"""How much memory the tensors between a graph's operations take."""

import math

import onnx_ir as ir


def activation_bytes(model: ir.Model) -> int:
    """The most bytes that tensors between operations take at once, run in order and freed after their last use.

    Weights and inputs are not in it, nor are the kernels' scratch buffers; views count as copies.
    """
    last = {value: number for number, node in enumerate(model.graph) for value in node.inputs}
    outputs = set(model.graph.outputs)
    live = peak = 0
    for number, node in enumerate(model.graph):
        live += sum(map(_bytes, node.outputs))
        peak = max(peak, live)
        done = {value for value in (*node.inputs, *node.outputs) if last.get(value, number) == number} - outputs
        live -= sum(_bytes(value) for value in done if value is not None and value.producer() is not None)
    return peak


def _bytes(value: ir.Value) -> int:
    if value.shape is None or value.dtype is None:  # sequences and the like
        return 0
    return int(math.prod(value.shape.numpy()) * value.dtype.itemsize)
