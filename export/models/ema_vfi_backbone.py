"""Features of a pair of frames at five scales (EMA-VFI, Zhang et al. 2023, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stt2v.export.models.ema_vfi_attention import NORM_EPS, MotionBlock


class ConvStage(nn.Module):
    """A chain of 3x3 convolutions at one scale."""

    def __init__(self, inputs: int, channels: int, depth: int) -> None:
        super().__init__()
        widths = [inputs] + [channels] * depth
        layers = [layer for i in range(depth) for layer in conv_prelu(widths[i], widths[i + 1])]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs, h, w] -> [N, channels, h, w]."""
        output: Tensor = self.conv(x)
        return output


def conv_prelu(inputs: int, channels: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution and a slope per channel."""
    return nn.Sequential(nn.Conv2d(inputs, channels, 3, stride, 1), nn.PReLU(channels))


class CrossScaleEmbed(nn.Module):
    """Tokens at 1/8 from the maps of the three convolutional stages (`width`, 2 and 4 times `width` channels)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(width * 2**level, width, 3, 2 ** (3 - level), dilation, dilation)
            for level in (2, 1, 0)
            for dilation in _dilations(level)
        )
        self.proj = nn.Conv2d(len(self.layers) * width, 8 * width, 1)
        self.norm = nn.LayerNorm(8 * width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: finest first, [N, C, H, W] -> [N, H / 8, W / 8, 8 * width]."""
        sources = [maps[level] for level in (2, 1, 0) for _ in _dilations(level)]
        tokens = torch.cat([layer(source) for layer, source in zip(self.layers, sources, strict=True)], 1)
        output: Tensor = self.norm(self.proj(tokens).permute(0, 2, 3, 1))
        return output


def _dilations(level: int) -> range:
    """The finer the map, the more views of it: 1, 2 or 4 dilations."""
    return range(1, 2 ** (2 - level) + 1)


class OverlapEmbed(nn.Module):
    """Tokens at half the resolution of a map."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, channels, 3, 2, 1)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, inputs, h, w] -> [N, h / 2, w / 2, channels]."""
        output: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return output


class Backbone(nn.Module):
    """Three convolutional stages at full, 1/2 and 1/4 resolution, two of attention at 1/8 and 1/16."""

    def __init__(self, width: int, depths: Sequence[int], heads: Sequence[int], window: int) -> None:
        super().__init__()
        self.block1 = ConvStage(3, width, depths[0])
        self.patch_embed2 = conv_prelu(width, 2 * width, stride=2)
        self.block2 = ConvStage(2 * width, 2 * width, depths[1])
        self.patch_embed3 = conv_prelu(2 * width, 4 * width, stride=2)
        self.block3 = ConvStage(4 * width, 4 * width, depths[2])
        self.patch_embed4 = CrossScaleEmbed(width)
        self.block4 = _attention_stage(8 * width, depths[3], heads[0], window)
        self.norm4 = nn.LayerNorm(8 * width, eps=NORM_EPS)
        self.patch_embed5 = OverlapEmbed(8 * width, 16 * width)
        self.block5 = _attention_stage(16 * width, depths[4], heads[1], window)
        self.norm5 = nn.LayerNorm(16 * width, eps=NORM_EPS)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """images: [2B, 3, H, W], BGR, in [0, 1], all first frames, then all second.

        Returns appearance, five maps [2B, width * 2^i, H / 2^i, W / 2^i], and motion, the maps of the last two scales.
        """
        fine = self.block1(images)
        half = self.block2(self.patch_embed2(fine))
        quarter = self.block3(self.patch_embed3(half))
        eighth, motion_eighth = _attend(self.block4, self.norm4, self.patch_embed4([fine, half, quarter]))
        last, motion_last = _attend(self.block5, self.norm5, self.patch_embed5(eighth))
        return [fine, half, quarter, eighth, last], [motion_eighth, motion_last]


def _attention_stage(channels: int, depth: int, heads: int, window: int) -> nn.ModuleList:
    """Blocks whose windows are shifted by half their size every other time."""
    return nn.ModuleList(
        MotionBlock(channels, channels // depth, heads, window, shift=window // 2 * (i % 2)) for i in range(depth)
    )


def _attend(blocks: nn.ModuleList, norm: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """tokens: [2B, h, w, C] -> appearance and motion, both [2B, C, h, w]."""
    cor = coordinates(tokens)
    motions = []
    for block in blocks:
        tokens, motion = block(tokens, cor)
        motions.append(motion)
    return norm(tokens).permute(0, 3, 1, 2), torch.cat(motions, -1).permute(0, 3, 1, 2)


def coordinates(tokens: Tensor) -> Tensor:
    """Place of every token of [N, h, w, C]: [N, h, w, 2], x then y, from -1 to 1 with both ends."""
    number, height, width, _ = tokens.shape
    x = torch.linspace(-1, 1, width, device=tokens.device).expand(number, height, width)
    y = torch.linspace(-1, 1, height, device=tokens.device)[:, None].expand(number, height, width)
    return torch.stack([x, y], -1).to(tokens.dtype)
