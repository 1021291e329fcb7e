"""The control branch of StreamingSVD: a copy of the UNet's encoder that sees the last frames of the chunk before."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.models.unet_spec import UNetSpec
from stt2v.export.models.video_unet import VideoEncoder


@dataclass(frozen=True)
class ControlSpec:
    """Structure of a control branch: its encoder, and the widths of its control-frame encoder before each stride."""

    encoder: UNetSpec
    frame_widths: tuple[int, ...] = (32, 96, 256, 512)


class ControlFrameEncoder(nn.Module):
    """Control frames to features at the latents' resolution: convolutions, two a level, each level halving it."""

    def __init__(self, widths: tuple[int, ...], channels_out: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks, self.norms = nn.ModuleList(), nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.extend([nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, wider, 3, stride=2, padding=1)])
            self.norms.extend([nn.LayerNorm(width), nn.LayerNorm(wider)])
        self.conv_out = nn.Conv2d(widths[-1], channels_out, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [N, 3, H, W], in [-1, 1] -> [N, C, h, w]."""
        x = functional.silu(self.conv_in(frames))
        for conv, norm in zip(self.blocks, self.norms, strict=True):
            x = functional.silu(norm(conv(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        out: Tensor = self.conv_out(x)
        return out


class ControlBranch(VideoEncoder):
    """Features of the control frames, for the CAMs of the UNet. Letters as in `video_blocks`; F is that of control."""

    def __init__(self, spec: ControlSpec) -> None:
        super().__init__(spec.encoder)
        self.frame_encoder = ControlFrameEncoder(spec.frame_widths, spec.encoder.width)

    def forward(
        self,
        x: Tensor,
        frames: int,
        timestep: Tensor,
        context: Tensor,
        label: Tensor,
        control_embedding: Tensor,
        images: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """x: [(B F), C_in, h, w]; control_embedding: [(B F), C, h, w], from `frame_encoder`; the rest as in the UNet.

        Returns the encoder's features, the merged first one included, and the middle feature.
        """
        inputs = self.step_inputs(frames, timestep, context, label, images)
        return self.encode(x, inputs, added=control_embedding)
