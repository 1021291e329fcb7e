"""Where a kernel runs, on a GPU or in Triton's interpreter for tests, and what Hopper's copy engine can fetch there."""

from typing import Any

import torch
from torch import Tensor
from triton import knobs

ALIGNMENT = 16  # bytes, of which addresses and strides are multiples


def runs_triton(tensor: Tensor) -> bool:
    """Whether a kernel can be launched on `tensor`; elsewhere its reference computes the same."""
    return tensor.is_cuda or bool(knobs.runtime.interpret)


def fits_rows(width: int, dtype: torch.dtype) -> bool:
    """Whether dense rows of `width` values begin where the copy engine can fetch from."""
    return width * dtype.itemsize % ALIGNMENT == 0


def packed(*vectors: Tensor | None) -> list[Any]:
    """`vectors` as kernels read them, value by value, without gaps; None stays None."""
    return [vector if vector is None else vector.contiguous() for vector in vectors]


def fetchable(tensor: Tensor) -> Tensor:
    """`tensor`, of rows that fit, as the copy engine takes it: itself if it can be, else a copy.

    It is contiguous, and so are its strides along axes of one, which PyTorch leaves as they come.
    """
    dense = tensor.contiguous()
    aligned = dense if dense.data_ptr() % ALIGNMENT == 0 else dense.clone()
    return aligned.view(-1).view(tensor.shape)


def has_shared_memory(tensor: Tensor, nbytes: int) -> bool:
    """Whether a block of a kernel can have so much: Hopper's have 227 KiB, an RTX 40's or 50's 99."""
    if not tensor.is_cuda:  # the interpreter has no limit
        return True
    card = torch.cuda.get_device_properties(tensor.device)
    return nbytes <= int(card.shared_memory_per_block_optin)  # type: ignore[attr-defined]  # PyTorch's stubs lack it
