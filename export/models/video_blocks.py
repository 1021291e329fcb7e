"""Residual blocks over space and time, as in Stable Video Diffusion (Blattmann et al. 2023).

Containers and spatial halves are those of diffusers; the temporal halves are computed in the layout [B, C, F, P]
(P pixels), where a (3, 1, 1) convolution is a 2-D one, and without the blending input that inference never uses.

Letters: B clips, F frames, (B F) frames of all clips in order, C channels, P = h * w pixels, N = B or B * F rows.
"""

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32


def fold(x: Tensor, frames: int) -> Tensor:
    """[(B F), C, h, w] -> [B, C, F, P]."""
    return x.reshape(-1, frames, x.shape[1], x.shape[2] * x.shape[3]).transpose(1, 2)


def unfold(x: Tensor, height: int, width: int) -> Tensor:
    """[B, C, F, P] -> [(B F), C, h, w]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1], height, width)


def temporal_conv(channels: int) -> nn.Conv2d:
    """A convolution over three frames of [B, C, F, P], zero-padded at both ends."""
    return nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))


class Mixer(nn.Module):
    """The learned share that the temporal path has in a block's result.

    In the UNet sigmoid(mix_factor) weighs the spatial path, in the decoder (`weighs_temporal`) the temporal one.
    """

    def __init__(self, weighs_temporal: bool = False) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))
        self.weighs_temporal = weighs_temporal

    def forward(self, images: Tensor | None) -> Tensor:
        """images: 1 where a frame is an image of its own -> share of the temporal path, same shape (or [1])."""
        share = torch.sigmoid(self.mix_factor if self.weighs_temporal else -self.mix_factor)
        return share if images is None else share * (1 - images.to(share.dtype))


class TemporalResidual(nn.Module):
    """The residual of a temporal block (its input is not added). GroupNorm statistics span all frames."""

    def __init__(self, channels: int, embedding_width: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels, eps)
        self.conv1 = temporal_conv(channels)
        self.time_emb_proj = nn.Linear(embedding_width, channels) if embedding_width else None
        self.norm2 = nn.GroupNorm(GROUPS, channels, eps)
        self.conv2 = temporal_conv(channels)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        """x: [B, C, F, P]; embedding: [1 or (B F), E] -> [B, C, F, P]."""
        y: Tensor = self.conv1(functional.silu(self.norm1(x)))
        if embedding is not None and self.time_emb_proj is not None:
            shift = self.time_emb_proj(functional.silu(embedding))
            clips = 1 if len(shift) == 1 else len(x)
            y = y + shift.reshape(clips, -1, x.shape[1]).transpose(1, 2)[..., None]
        residual: Tensor = self.conv2(functional.silu(self.norm2(y)))
        return residual


class VideoResBlock(nn.Module):
    """Spatial residual block, then temporal one, blended.

    The temporal result contains the spatial one through its identity skip, so blending is adding a share of the
    temporal residual.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding_width: int | None,
        eps: float,
        temporal_eps: float,
        weighs_temporal: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_res_block = ResnetBlock2D(
            in_channels=channels_in,
            out_channels=channels_out,
            temb_channels=embedding_width,  # type: ignore[arg-type]  # None is how diffusers leaves the embedding out
            eps=eps,
        )
        self.temporal_res_block = TemporalResidual(channels_out, embedding_width, temporal_eps)
        self.time_mixer = Mixer(weighs_temporal)

    def forward(self, x: Tensor, frames: int, embedding: Tensor | None = None, images: Tensor | None = None) -> Tensor:
        """x: [(B F), C, h, w]; embedding: [1 or (B F), E]; images: [B, F] -> [(B F), C_out, h, w]."""
        x = self.spatial_res_block(x, embedding)
        residual = self.temporal_res_block(fold(x, frames), embedding)
        share = self.time_mixer(None if images is None else images[:, None, :, None])
        return x + unfold(share * residual, x.shape[2], x.shape[3])
