"""The autoencoder of Stable Video Diffusion: image encoder, and decoder over groups of frames."""

from dataclasses import dataclass

from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Encoder
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.models.video_blocks import GROUPS, VideoResBlock, fold, temporal_conv, unfold

LATENT_SCALE = 0.18215
EPS, TEMPORAL_EPS = 1e-6, 1e-5


@dataclass(frozen=True)
class VaeSpec:
    """Structure of an encoder or decoder: widths from the image's resolution to the latents', blocks a level."""

    widths: tuple[int, ...]
    blocks: int  # residual blocks a level of the encoder; a decoder has one more
    latent_channels: int = 4


class LatentEncoder(nn.Module):
    """An image to the moments of its latents."""

    def __init__(self, spec: VaeSpec, quant_conv: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(
            out_channels=spec.latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(spec.widths),
            block_out_channels=spec.widths,
            layers_per_block=spec.blocks,
        )
        moments = 2 * spec.latent_channels
        self.quant_conv = nn.Conv2d(moments, moments, 1) if quant_conv else nn.Identity()

    def moments(self, images: Tensor) -> Tensor:
        """images: [N, 3, H, W], in [-1, 1] -> mean and log variance, [N, 2 C, h, w]."""
        moments: Tensor = self.quant_conv(self.encoder(images))
        return moments

    def forward(self, image: Tensor) -> Tensor:
        """image: [N, 3, H, W], in [-1, 1] -> the mode, not scaled, [N, C, h, w]."""
        return self.moments(image).chunk(2, dim=1)[0]


def video_res_block(channels_in: int, channels_out: int) -> VideoResBlock:
    """The decoder's block: no step embedding, and the mixing factor weighs the temporal path."""
    return VideoResBlock(channels_in, channels_out, None, EPS, TEMPORAL_EPS, weighs_temporal=True)


class DecoderLevel(nn.Module):
    """Residual blocks of one resolution, then twice the resolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, upsample: bool) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.block = nn.ModuleList(map(video_res_block, widths, widths[1:]))
        self.upsample = Upsample2D(channels_out, use_conv=True) if upsample else nn.Identity()

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x: [(B F), C, h, w] -> [(B F), C_out, 2h, 2w], or [.., h, w] at the top."""
        for block in self.block:
            x = block(x, frames)
        out: Tensor = self.upsample(x)
        return out


class TemporalDecoder(nn.Module):
    """Latents of one group of frames to images. The result depends on which frames are decoded together."""

    def __init__(self, spec: VaeSpec) -> None:
        super().__init__()
        deepest = spec.widths[-1]
        self.conv_in = nn.Conv2d(spec.latent_channels, deepest, 3, padding=1)
        self.middle_in = video_res_block(deepest, deepest)
        self.middle_attention = Attention(
            deepest, heads=1, dim_head=deepest, bias=True, norm_num_groups=GROUPS, eps=EPS, residual_connection=True
        )
        self.middle_out = video_res_block(deepest, deepest)
        wider = (*spec.widths[1:], deepest)
        self.up = nn.ModuleList(
            DecoderLevel(wider[level], width, spec.blocks + 1, upsample=level > 0)
            for level, width in enumerate(spec.widths)
        )
        self.norm_out = nn.GroupNorm(GROUPS, spec.widths[0], eps=EPS)
        self.conv_out = nn.Conv2d(spec.widths[0], 3, 3, padding=1)
        self.time_mix_conv = temporal_conv(3)

    def forward(self, latents: Tensor) -> Tensor:
        """latents: [F, C, h, w], not scaled, one group -> frames: [F, 3, H, W], about [-1, 1]."""
        frames = len(latents)
        x = self.middle_in(self.conv_in(latents), frames)
        x = self.middle_out(self.middle_attention(x), frames)
        for level in reversed(self.up):
            x = level(x, frames)
        x = self.conv_out(functional.silu(self.norm_out(x)))
        return unfold(self.time_mix_conv(fold(x, frames)), x.shape[2], x.shape[3])


class LatentDecoder(nn.Module):
    """The decoder as a graph: latents as the denoiser has them, frames as everything after it wants them."""

    def __init__(self, decoder: TemporalDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        """latents: [F, C, h, w], scaled, one group -> frames: [F, 3, H, W], in [-1, 1]."""
        frames: Tensor = self.decoder(latents / LATENT_SCALE)
        return frames.clamp(-1.0, 1.0)
