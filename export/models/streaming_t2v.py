"""StreamingT2V's networks (Henschel et al. 2024, section 4): ModelScope's UNet with CAM and APM, and its control net.

Letters as in `modelscope_unet`; Fc is the number of control frames, I that of image tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.models.cam import CAM
from stt2v.export.models.modelscope_unet import (
    KeysValues,
    ModelScopeEncoder,
    ModelScopeUNet,
    UNetSpec,
    cross_attentions,
)


@dataclass(frozen=True)
class MemorySpec:
    """Structure of the memories: CAM widths (a checkpoint may hold more than there are skips), and tokens of APM."""

    cam_channels: tuple[int, ...]
    cam_head_width: int = 64
    text_tokens: int = 77
    image_tokens: int = 16


class AppearanceMix(nn.Module):
    """APM at one cross-attention: image tokens change the text tokens, by a learned amount."""

    def __init__(self, text_tokens: int, image_tokens: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(text_tokens + image_tokens, text_tokens, 3, padding=1)  # over features, not over tokens
        self.conv_ln = nn.LayerNorm(width)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, T + I, D], text first -> [B, T, D]."""
        mixed: Tensor = self.conv_ln(self.conv(tokens))
        return tokens[:, : self.conv.out_channels] + functional.silu(self.alpha) * mixed


class ImageTokens(nn.Module):
    """APM's token generator: embeddings of anchor frames to context tokens."""

    def __init__(self, width: int, inner: int, tokens: int) -> None:
        super().__init__()
        self.context_embedding = nn.Sequential(nn.Linear(width, inner), nn.SiLU(), nn.Linear(inner, tokens * width))

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings: [B, frames, D], averaged over frames -> [B, I, D]."""
        tokens: Tensor = self.context_embedding(embeddings.mean(dim=1))
        return tokens.reshape(len(tokens), -1, embeddings.shape[2])


class StreamingUNet(ModelScopeUNet):
    """The main UNet: CAMs merge the control net's features in, APM mixes the image tokens into the context."""

    def __init__(self, spec: UNetSpec, memory: MemorySpec) -> None:
        super().__init__(spec)
        self.skip_cams = nn.ModuleList(CAM(channels, memory.cam_head_width) for channels in memory.cam_channels)
        self.middle_cam = CAM(spec.widths[-1], memory.cam_head_width)
        self.apm = nn.ModuleList(
            AppearanceMix(memory.text_tokens, memory.image_tokens, spec.context_width) for _ in cross_attentions(self)
        )

    def sites(self) -> list[nn.Module]:
        """What makes the keys and values of each cross-attention out of text and image tokens."""
        attentions = cross_attentions(self).values()
        return [nn.Sequential(mix, KeysValues(attention)) for mix, attention in zip(self.apm, attentions, strict=True)]

    def forward(
        self,
        x: Tensor,
        frames: int,
        timestep: Tensor,
        context: Tensor,
        control: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """As `ModelScopeUNet`; control: the control net's features, [(B Fc), C_i, h_i, w_i], and its middle one.

        Features and CAMs go together by position. Without control the CAMs are left out.
        """
        inputs = self.step_inputs(frames, len(x) // frames, timestep, context)
        skips, x = self.encode(x, inputs)
        if control is not None:
            pairs = zip(skips, control[0], strict=True)
            skips = [cam(*pair, frames) for cam, pair in zip(self.skip_cams, pairs, strict=False)]
            x = self.middle_cam(x, control[1], frames)
        return self.decode(x, skips, inputs)


class ControlFrameEncoder(nn.Module):
    """Control frames to features at the latents' resolution: convolutions, two a level, each level halving it."""

    def __init__(self, widths: tuple[int, ...], channels_out: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for width, wider in pairwise(widths):
            self.blocks.append(nn.Conv2d(width, width, 3, padding=1))
            self.blocks.append(nn.Conv2d(width, wider, 3, stride=2, padding=1))
        self.conv_out = nn.Conv2d(widths[-1], channels_out, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [N, 3, H, W], in [-1, 1] -> [N, C, h, w]."""
        x = functional.silu(self.conv_in(frames))
        for conv in self.blocks:
            x = functional.silu(conv(x))
        out: Tensor = self.conv_out(x)
        return out


class ControlNet(ModelScopeEncoder):
    """A copy of the UNet's encoder that sees the last frames of the chunk before. It has no APM."""

    def __init__(self, spec: UNetSpec, frame_widths: tuple[int, ...]) -> None:
        super().__init__(spec)
        self.frame_encoder = ControlFrameEncoder(frame_widths, spec.widths[0])

    def forward(
        self, x: Tensor, frames: int, timestep: Tensor, context: Tensor, control_embedding: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """x: [(B Fc), C_in, h, w]; control_embedding: [(B Fc), C, h, w], from `frame_encoder`; the rest as in the UNet.

        Returns the encoder's features and the middle one.
        """
        inputs = self.step_inputs(frames, len(x) // frames, timestep, context)
        return self.encode(x, inputs, added=control_embedding)
