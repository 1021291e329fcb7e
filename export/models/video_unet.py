"""The video UNet of Stable Video Diffusion, with CAM mergers where StreamingSVD has them.

One class serves the stock SVD-XT (no mergers, diffusers' mixed norm constants) and StreamingSVD. Whatever is constant
over the steps of a chunk enters as a constant: `project_context` and `embed_label` make them.

Letters as in `video_blocks`; S is the width of all context constants together, E = 4 * width that of an embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.models.cam import CAM
from stt2v.export.models.unet_spec import BlockSpec, UNetSpec
from stt2v.export.models.video_blocks import GROUPS, VideoResBlock
from stt2v.export.models.video_transformer import VideoTransformer, sinusoid


@dataclass(frozen=True)
class StepInputs:
    """What every block of one call shares.

    embedding: [1 or (B F), E]; context: the remaining sites' constants; images: [B, F] or None.
    """

    frames: int
    embedding: Tensor
    context: Iterator[Tensor]
    images: Tensor | None


class Block(nn.ModuleList):
    """The layers of a `BlockSpec` in order."""

    def __init__(self, spec: BlockSpec, unet: UNetSpec) -> None:
        layers: list[nn.Module] = []
        if spec.residual:
            layers.append(VideoResBlock(spec.channels_in, spec.channels_out, 4 * unet.width, spec.eps, spec.eps))
        else:
            layers.append(Downsample2D(spec.channels_in, use_conv=True, name="op"))
        if spec.depth:
            layers.append(VideoTransformer(spec.channels_out, unet.head_width, unet.context_width, spec.depth))
        if spec.upsample:
            layers.append(Upsample2D(spec.channels_out, use_conv=True))
        super().__init__(layers)

    def forward(self, x: Tensor, inputs: StepInputs) -> Tensor:
        """x: [(B F), C, h, w] -> [(B F), C_out, h', w']."""
        for layer in self:
            x = apply_layer(layer, x, inputs)
        return x


def apply_layer(layer: nn.Module, x: Tensor, inputs: StepInputs) -> Tensor:
    """x: [(B F), C, h, w] through one layer, with what that kind of layer takes besides."""
    if isinstance(layer, VideoResBlock):
        x = layer(x, inputs.frames, inputs.embedding, inputs.images)
    elif isinstance(layer, VideoTransformer):
        x = layer(x, inputs.frames, inputs.context, inputs.images)
    else:
        x = layer(x)
    return x


class VideoEncoder(nn.Module):
    """Embeddings, encoder and middle block: the half that the UNet and the control branch have in common."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.skip_channels[-1]
        middle = BlockSpec(channels, channels, spec.middle_depth)
        self.time_embedding = TimestepEmbedding(spec.width, 4 * spec.width)
        self.label_embedding = TimestepEmbedding(spec.label_width, 4 * spec.width)
        conv_in = nn.Sequential(nn.Conv2d(spec.channels_in, spec.width, 3, padding=1))
        self.input_blocks = nn.ModuleList([conv_in, *(Block(block, spec) for block in spec.encoder)])
        self.middle_block = Block(middle, spec)
        self.middle_block.append(VideoResBlock(channels, channels, 4 * spec.width, middle.eps, middle.eps))

    def sites(self) -> list[nn.Sequential]:
        """What is left of all cross-attentions, in the order of their columns in the context constants."""
        transformers = [module for module in self.modules() if isinstance(module, VideoTransformer)]
        return [site for transformer in transformers for site in transformer.sites()]

    def site_widths(self) -> list[int]:
        """Columns of each cross-attention in the context constants."""
        return [cast(nn.Linear, site[-1]).out_features for site in self.sites()]

    def project_context(self, context: Tensor) -> Tensor:
        """The constants of every cross-attention: context [N, D] -> [N, S]."""
        return project(self.sites(), context)

    def embed_label(self, vector: Tensor) -> Tensor:
        """vector: [N, label width] -> [N, E]."""
        label: Tensor = self.label_embedding(vector)
        return label

    def embed_time(self, timestep: Tensor) -> Tensor:
        """timestep: [N] -> [N, E]."""
        sines = sinusoid(timestep, self.spec.width)
        time: Tensor = self.time_embedding(sines.to(self.time_embedding.linear_1.weight.dtype))
        return time

    def step_inputs(
        self, frames: int, timestep: Tensor, context: Tensor, label: Tensor, images: Tensor | None = None
    ) -> StepInputs:
        """timestep: [1 or (B F)]; context: [N, S]; label: [1 or (B F), E]; images: [B, F]."""
        constants = iter(torch.split(context, self.site_widths(), dim=1))
        return StepInputs(frames, self.embed_time(timestep) + label, constants, images)

    def encode(self, x: Tensor, inputs: StepInputs, added: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """x: [(B F), C_in, h, w]; added: [(B F), C, h, w], to the first feature -> skips, middle feature."""
        first, *blocks = self.input_blocks
        skips = [first(x) if added is None else first(x) + added]
        for block in blocks:
            skips.append(block(skips[-1], inputs))
        return skips, self.middle_block(skips[-1], inputs)


def project(sites: Iterable[nn.Module], context: Tensor) -> Tensor:
    """What each cross-attention gives for a context of one token: [N, D] -> [N, S]."""
    return torch.cat([site(context) for site in sites], dim=1)


class VideoUNet(VideoEncoder):
    """The whole UNet. With control features, CAMs merge them into the skips and the middle feature."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__(spec)
        self.output_blocks = nn.ModuleList(Block(block, spec) for block in spec.decoder)
        self.norm_out = nn.GroupNorm(GROUPS, spec.width, eps=1e-5)
        self.conv_out = nn.Conv2d(spec.width, spec.channels_out, 3, padding=1)
        if spec.cam_head_width is not None:
            self.skip_cams = nn.ModuleList(CAM(channels, spec.cam_head_width) for channels in spec.skip_channels)
            self.middle_cam = CAM(spec.skip_channels[-1], spec.cam_head_width)

    def forward(
        self,
        x: Tensor,
        frames: int,
        timestep: Tensor,
        context: Tensor,
        label: Tensor,
        control: tuple[Sequence[Tensor], Tensor] | None = None,
        images: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy latents and image latents.

        x: [(B F), C_in, h, w]; timestep: [1 or (B F)], 0.25 ln sigma; context: [N, S]; label: [1 or (B F), E];
        control: the control branch's skips and middle feature, [(B Fc), C_i, h_i, w_i]; images: [B, F], 1 where a
        frame is an image of its own (None: nowhere) -> [(B F), C_out, h, w].
        """
        inputs = self.step_inputs(frames, timestep, context, label, images)
        skips, x = self.encode(x, inputs)
        if control is not None:
            skips = [cam(*pair, frames) for cam, *pair in zip(self.skip_cams, skips, control[0], strict=True)]
            x = self.middle_cam(x, control[1], frames)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), inputs)
        out: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        return out
