"""Products of FP8 (e4m3) rows by FP8 rows, each row with a scale of its own, through Hopper's scaled matmul."""

import torch
from torch import Tensor

TYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(TYPE).max
SMALLEST_SCALE = 1e-12  # so that a row of zeros divides by something


def quantised_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """values: [N, K] -> the same in FP8, and what each row is to be multiplied by, [N, 1], float32."""
    scale = (values.float().abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return (values.float() / scale).to(TYPE), scale


def product_reference(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """x: [M, K], weight: [N, K], in FP8; x_scale: [M, 1]; weight_scale: [1, N] -> [M, N], bfloat16."""
    return ((x.float() * x_scale) @ (weight.float() * weight_scale.T).T).bfloat16()


@torch.library.custom_op("stt2v::fp8_product", mutates_args=())
def fp8_product(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """As `product_reference`; on a GPU the sums are the matrix units' own, a little narrower than float32."""
    if not x.is_cuda:
        return product_reference(x, weight, x_scale, weight_scale)
    return torch._scaled_mm(x, weight.T, x_scale, weight_scale, out_dtype=torch.bfloat16, use_fast_accum=True)


@fp8_product.register_fake
def _(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight), dtype=torch.bfloat16)


PRODUCT = torch.ops.stt2v.fp8_product.default
