"""Convolutions that keep the size of their maps, in half precision or FP8 (e4m3), as operators of PyTorch.

While one writes its maps it may add others, and give the moments of what it writes (`parts.py`): what would read all of
it again.
"""

import torch
from torch import Tensor
from torch.nn import functional

from stt2v.kernels.parts import box, empty_moments, moments_reference

GRANULE = 16  # channels, in and out, come in multiples: the copy engine counts in 16 bytes
PIXELS = 256  # of a tile of the result


def convolution_reference(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """A convolution that keeps the size of its map, padded with zeros.

    x: [N, C, H, W]; weight: [D, C, h, w], h and w odd; bias, scale: [D]; added: [N, D, H, W] -> [N, D, H, W], times
    scale, plus bias, plus added.
    """
    padding = [size // 2 for size in weight.shape[2:]]
    if scale is None:
        out = functional.conv2d(x, weight, bias, 1, padding)
    else:
        out = functional.conv2d(x.to(scale.dtype), weight.to(scale.dtype), None, 1, padding)
        out = out * scale[:, None, None] + bias.to(scale.dtype)[:, None, None]
    return out if added is None else out + added


@torch.library.custom_op("stt2v::convolution", mutates_args=())
def convolution(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """As `convolution_reference`, in the type of `bias`; channels in and out are multiples of `GRANULE`."""
    if x.is_cuda:
        from stt2v.kernels.implicit_gemm import tiled_convolution  # needs Triton

        return tiled_convolution(x, weight, bias, scale, added)
    out = convolution_reference(x, weight, bias, scale, added)
    return out.to(bias.dtype).contiguous(memory_format=torch.channels_last)


@convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    return empty_maps(x, bias)


@torch.library.custom_op("stt2v::convolution_and_moments", mutates_args=())
def convolution_and_moments(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None, added: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`convolution`, and the moments and counts of what it gives, by frame.

    moments: [2, N, I, J, D], counts: [N, I, J], as in `moments_reference`, float32. A kernel of one column sees maps
    [B, D, F, P], where each row is a frame: I is F, else rows of a frame are cut too.
    """
    if x.is_cuda:
        from stt2v.kernels.implicit_gemm import tiled_convolution_and_moments  # needs Triton

        return tiled_convolution_and_moments(x, weight, bias, scale, added)
    out = convolution(x, weight, bias, scale, added)
    return out, *moments_reference(out.float(), *part(x, weight))


@convolution_and_moments.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor | None = None, added: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    out = empty_maps(x, bias)
    return out, *empty_moments(out, *part(x, weight))


OP = torch.ops.stt2v.convolution.default
AND_MOMENTS = torch.ops.stt2v.convolution_and_moments.default


def empty_maps(x: Tensor, bias: Tensor) -> Tensor:
    """What a convolution of `x` gives: in the type of `bias`, channels-last."""
    shape = (len(x), len(bias), *x.shape[2:])
    return torch.empty(shape, device=x.device, dtype=bias.dtype, memory_format=torch.channels_last)


def part(x: Tensor, weight: Tensor, pixels: int = PIXELS) -> tuple[int, int]:
    """Rows and width of the parts that moments are of: what a tile of so many pixels has of one frame."""
    _, rows, width = box((len(x), *x.shape[2:]), pixels)
    return (1 if weight.shape[3] == 1 else rows), width
