"""EMA-VFI: the frame between two frames (Zhang et al. 2023, "Extracting Motion and Appearance via Inter-Frame Attention
for Efficient Video Frame Interpolation").
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stt2v.export.models.ema_vfi_backbone import Backbone
from stt2v.export.models.ema_vfi_flow import FlowHead, warp, warp_pyramid
from stt2v.export.models.ema_vfi_refine import RefineUNet

MULTIPLE = 16  # of height and width


@dataclass(frozen=True)
class EmaVfiConfig:
    """Structure of the network; the defaults are the published one's.

    width: channels at full resolution, doubled at each of the five scales; depths: convolutions (three scales) and
    attention blocks (two scales); heads of the two attention scales; window of attention, in tokens.
    """

    width: int = 32
    depths: tuple[int, int, int, int, int] = (2, 2, 2, 4, 4)
    heads: tuple[int, int] = (8, 16)
    window: int = 7


@dataclass(frozen=True)
class PairFeatures:
    """What the backbone says of a pair: maps as it returns them, first frames in the first half of the batch."""

    appearance: list[Tensor]
    motion: list[Tensor]


class EmaVfi(nn.Module):
    """The network. Height and width must be multiples of 16; pictures are BGR in [0, 1], kept in float32."""

    def __init__(self, config: EmaVfiConfig) -> None:
        super().__init__()
        width = config.width
        self.feature_bone = Backbone(width, config.depths, config.heads, config.window)
        self.block = nn.ModuleList(
            [
                FlowHead(4 * width + 6, 4 * width, scale=16),
                FlowHead(2 * width + 17, 4 * width, scale=8),
            ]
        )
        self.unet = RefineUNet(2 * width)

    def forward(self, image0: Tensor, image1: Tensor, timestep: float = 0.5) -> Tensor:
        """image0, image1: [B, 3, H, W] -> the frame at `timestep` of the way, [B, 3, H, W], float32."""
        features = self.features(image0, image1)
        flow, mask = self.flow(image0, image1, features, timestep)
        return self.render(image0, image1, flow, mask, features.appearance)

    def features(self, image0: Tensor, image1: Tensor) -> PairFeatures:
        """image0, image1: [B, 3, H, W]."""
        images = torch.cat([image0, image1])
        return PairFeatures(*self.feature_bone(images.to(next(self.parameters()).dtype)))

    def flow(self, image0: Tensor, image1: Tensor, features: PairFeatures, timestep: float) -> tuple[Tensor, Tensor]:
        """Flow [B, 4, H, W] in pixels (to the first, to the second frame) and blending mask [B, 1, H, W], a logit."""
        *_, last = self.flow_stages(image0, image1, features, timestep)
        return last

    def flow_stages(
        self, image0: Tensor, image1: Tensor, features: PairFeatures, timestep: float
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Flow and mask as they stand after each head, coarse to fine."""
        flow: Tensor | None = None
        mask: Tensor | None = None
        pictures = [image0, image1]
        for head, motion, appearance in zip(
            self.block, reversed(features.motion), reversed(features.appearance), strict=False
        ):
            motion0, motion1 = motion.chunk(2)
            clues = torch.cat([timestep * motion0, (1 - timestep) * motion1, *appearance.chunk(2)], 1)
            if flow is None or mask is None:
                flow, mask = head(clues, torch.cat(pictures, 1), None)
            else:
                warped = [*warp_pair(image0, image1, flow), mask]
                more_flow, more_mask = head(clues, torch.cat([*pictures, *warped], 1), flow)
                flow, mask = flow + more_flow, mask + more_mask
            yield flow, mask

    def render(self, image0: Tensor, image1: Tensor, flow: Tensor, mask: Tensor, appearance: list[Tensor]) -> Tensor:
        """The frame that flow and mask make of the pair, corrected by the U-Net: [B, 3, H, W], in [0, 1]."""
        warped0, warped1 = warp_pair(image0, image1, flow)
        pictures = torch.cat([image0, image1, warped0, warped1, mask, flow], 1)
        correction = self.unet(pictures, *warp_pyramid(appearance, flow))
        frame: Tensor = blend(warped0, warped1, mask) + 2 * correction - 1
        return frame.clamp(0, 1)


def warp_pair(image0: Tensor, image1: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Both frames moved to the time between them: flow: [B, 4, H, W]."""
    return warp(image0, flow[:, :2]), warp(image1, flow[:, 2:])


def blend(warped0: Tensor, warped1: Tensor, mask: Tensor) -> Tensor:
    """Both warped frames by the share that the mask's logit gives to the first."""
    share = torch.sigmoid(mask)
    return share * warped0 + (1 - share) * warped1


class MiddleFrame(nn.Module):
    """The frame in the middle of RGB pairs of any size, averaged over the pair and the pair turned by 180 degrees."""

    def __init__(self, network: EmaVfi) -> None:
        super().__init__()
        self.network = network

    def forward(self, image0: Tensor, image1: Tensor) -> Tensor:
        """image0, image1: [B, 3, H, W], RGB, float32, in [0, 1] -> middle: the same."""
        height, width = image0.shape[2:]
        upright, turned = self.network(_views(image0), _views(image1)).chunk(2)
        middle: Tensor = 0.5 * (upright + turned.flip(2, 3))
        return middle[:, :, :height, :width].flip(1)


def _views(image: Tensor) -> Tensor:
    """[B, 3, H, W], RGB -> [2B, 3, H', W'], BGR: as it is and turned, padded at the far edges."""
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate").flip(1)
    return torch.cat([image, image.flip(2, 3)])
