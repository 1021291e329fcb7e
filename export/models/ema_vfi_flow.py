"""Flow between two frames: warping by it and the heads that estimate it. All flows and warps are float32.

Half precision rounds places on a 720p frame to thirds of a pixel, so whatever the type of the network, grids, flows and
pictures keep float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stt2v.export.models.ema_vfi_backbone import conv_prelu


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Backward warp: x: [N, C, h, w], flow: [N, 2, h, w] in pixels, horizontal then vertical -> x at place + flow."""
    height, width = x.shape[2:]
    flow = flow.float()
    grid_x = _places(flow, -1) + flow[:, 0] / ((width - 1) / 2)
    grid_y = _places(flow, -2)[:, None] + flow[:, 1] / ((height - 1) / 2)
    grid = torch.stack([grid_x, grid_y], -1)
    warped = F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return warped.to(x.dtype)


def _places(flow: Tensor, axis: int) -> Tensor:
    return torch.linspace(-1, 1, flow.shape[axis], device=flow.device)


def warp_pyramid(maps: Sequence[Tensor], flow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """maps: [2B, C, H / 2^i, W / 2^i], flow: [B, 4, H, W] -> warped maps of the first and of the second frames."""
    first, second = [], []
    for level, x in enumerate(maps):
        if level:
            flow = 0.5 * resize(flow, 0.5)
        x0, x1 = x.chunk(2)
        first.append(warp(x0, flow[:, :2]))
        second.append(warp(x1, flow[:, 2:]))
    return first, second


def resize(x: Tensor, factor: float) -> Tensor:
    """x: [N, C, h, w] -> [N, C, factor * h, factor * w], bilinear, without antialiasing."""
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class FlowHead(nn.Module):
    """Estimates flow and blending mask from features at 1/`scale`, working at 1/(scale / 4)."""

    def __init__(self, inputs: int, hidden: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Sequential(conv_prelu(inputs, hidden), conv_prelu(hidden, hidden), conv_prelu(hidden, 5))

    def forward(self, features: Tensor, x: Tensor, flow: Tensor | None) -> tuple[Tensor, Tensor]:
        """features: [B, C, H / scale, W / scale]; x: pictures and mask so far, [B, c, H, W]; flow: [B, 4, H, W].

        Returns flow [B, 4, H, W] in pixels and mask [B, 1, H, W] (a logit), both float32.
        """
        shrink = 4 / self.scale
        shuffled = F.pixel_shuffle(F.pixel_shuffle(features, 2), 2)  # not the channel order of one shuffle by 4
        inputs = [shuffled, resize(x, shrink).to(features.dtype)]
        if flow is not None:
            inputs.append((shrink * resize(flow, shrink)).to(features.dtype))
        estimate = resize(self.conv(torch.cat(inputs, 1)).float(), 1 / shrink)
        return estimate[:, :4] / shrink, estimate[:, 4:]
