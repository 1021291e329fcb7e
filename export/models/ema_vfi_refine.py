"""The U-Net that corrects the blended frame (EMA-VFI, Zhang et al. 2023, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stt2v.export.models.ema_vfi_backbone import conv_prelu

PICTURES = 4 * 3 + 1 + 4  # four pictures, mask, flow


class Down(nn.Module):
    """Two convolutions, the first of stride 2."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_prelu(inputs, channels, stride=2)
        self.conv2 = conv_prelu(channels, channels)

    def forward(self, *maps: Tensor) -> Tensor:
        """maps: [B, c, h, w] each, `inputs` channels in all -> [B, channels, h / 2, w / 2]."""
        output: Tensor = self.conv2(self.conv1(torch.cat(maps, 1)))
        return output


class RefineUNet(nn.Module):
    """Takes pictures, flow and warped features; `channels` is twice the width of the backbone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.down0 = Down(PICTURES + c, 2 * c)
        self.down1 = Down(4 * c, 4 * c)
        self.down2 = Down(8 * c, 8 * c)
        self.down3 = Down(16 * c, 16 * c)
        self.up0 = _up(32 * c, 8 * c)
        self.up1 = _up(16 * c, 4 * c)
        self.up2 = _up(8 * c, 2 * c)
        self.up3 = _up(4 * c, c)
        self.conv = nn.Conv2d(c, 3, 3, 1, 1)

    def forward(self, pictures: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """pictures: [B, 17, H, W], both frames, both warped, mask, flow; first, second: five warped maps a frame.

        Returns [B, 3, H, W], float32, in (0, 1), where 0.5 means no correction.
        """
        s0 = self.down0(pictures.to(first[0].dtype), first[0], second[0])
        s1 = self.down1(s0, first[1], second[1])
        s2 = self.down2(s1, first[2], second[2])
        s3 = self.down3(s2, first[3], second[3])
        x = self.up0(torch.cat([s3, first[4], second[4]], 1))
        x = self.up1(torch.cat([x, s2], 1))
        x = self.up2(torch.cat([x, s1], 1))
        x = self.up3(torch.cat([x, s0], 1))
        return torch.sigmoid(self.conv(x).float())


def _up(inputs: int, channels: int) -> nn.Sequential:
    """Doubles the resolution."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, channels, 4, 2, 1), nn.PReLU(channels))
