"""Where a kernel runs: on a GPU, or in Triton's interpreter, which is for tests."""

from torch import Tensor
from triton import knobs


def runs_triton(tensor: Tensor) -> bool:
    """Whether a kernel can be launched on `tensor`; elsewhere its reference computes the same."""
    return tensor.is_cuda or bool(knobs.runtime.interpret)
