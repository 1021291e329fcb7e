"""Convolutions that keep the size of their maps, in half precision or FP8 (e4m3), as an operator of PyTorch."""

import torch
from torch import Tensor
from torch.nn import functional

GRANULE = 16  # channels, in and out, come in multiples: the copy engine counts in 16 bytes


def convolution_reference(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """A convolution that keeps the size of its map, padded with zeros.

    x: [N, C, H, W]; weight: [D, C, h, w], h and w odd; bias, scale: [D] -> [N, D, H, W], times scale, plus bias.
    """
    padding = [size // 2 for size in weight.shape[2:]]
    if scale is None:
        return functional.conv2d(x, weight, bias, 1, padding)
    out = functional.conv2d(x.to(scale.dtype), weight.to(scale.dtype), None, 1, padding)
    return out * scale[:, None, None] + bias.to(scale.dtype)[:, None, None]


@torch.library.custom_op("stt2v::convolution", mutates_args=())
def convolution(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    """As `convolution_reference`, in the type of `bias`; channels in and out are multiples of `GRANULE`."""
    if x.is_cuda:
        from stt2v.kernels.implicit_gemm import tiled_convolution  # needs Triton

        return tiled_convolution(x, weight, bias, scale)
    out = convolution_reference(x, weight, bias, scale)
    return out.to(bias.dtype).contiguous(memory_format=torch.channels_last)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> Tensor:
    return empty_maps(x, bias)


OP = torch.ops.stt2v.convolution.default


def empty_maps(x: Tensor, bias: Tensor) -> Tensor:
    """What a convolution of `x` gives: in the type of `bias`, channels-last."""
    shape = (len(x), len(bias), *x.shape[2:])
    return torch.empty(shape, device=x.device, dtype=bias.dtype, memory_format=torch.channels_last)
