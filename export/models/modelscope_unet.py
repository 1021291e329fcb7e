"""ModelScope's text-to-video UNet (Wang et al. 2023), with the context's keys and values taken out of the steps.

Blocks, keys and numbers are those of diffusers' `UNet3DConditionModel`; the order of work is our own, so that features
can be merged between encoder and decoder. Every frame of a clip sees the same context, so `project` makes the keys and
values of all cross-attentions once a chunk.

Letters: B clips, F frames, (B F) frames of all clips in order, C channels, T context tokens, D their width, K the width
of all keys and values side by side, E that of the time embedding.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class UNetSpec:
    """The structure of a UNet, or of the encoder half of one.

    attention: which levels have transformers; entry_heads: of the temporal transformer before the first level;
    down_padding: rows and columns that are padded before halving.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    layers: int = 2
    context_width: int = 1024
    head_width: int = 64
    entry_heads: int = 8
    channels_in: int = 4
    channels_out: int = 4
    down_padding: tuple[int, int] = (1, 1)

    def blocks(self) -> Any:
        """diffusers' network, to take blocks from; its cross-attentions want keys and values for a context."""
        down = ["CrossAttnDownBlock3D" if attention else "DownBlock3D" for attention in self.attention]
        up = ["CrossAttnUpBlock3D" if attention else "UpBlock3D" for attention in reversed(self.attention)]
        blocks = UNet3DConditionModel(
            in_channels=self.channels_in,
            out_channels=self.channels_out,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            block_out_channels=self.widths,
            layers_per_block=self.layers,
            downsample_padding=self.down_padding,
            cross_attention_dim=self.context_width,
            attention_head_dim=self.head_width,
        )
        for attention in cross_attentions(blocks).values():
            attention.set_processor(ProjectedAttention())
        return blocks

    @property
    def skip_channels(self) -> tuple[int, ...]:
        """Channels of the encoder's features, which the decoder consumes from the end."""
        halved = [self.layers + 1] * (len(self.widths) - 1) + [self.layers]
        return (
            self.widths[0],
            *(width for width, count in zip(self.widths, halved, strict=True) for _ in range(count)),
        )


@dataclass(frozen=True)
class StepInputs:
    """What every block of one call shares. embedding: [(B F), E]; context: the remaining sites', [B, T, 2 C] each."""

    frames: int
    embedding: Tensor
    context: Iterator[Tensor]

    def temporal(self, layer: nn.Module, x: Tensor) -> Tensor:
        """`x` through a layer over frames; a single frame has none to look at and stays as it is."""
        if self.frames == 1:
            return x
        if isinstance(layer, TransformerTemporalModel):
            x = layer(x, num_frames=self.frames, return_dict=False)[0]
        else:
            x = layer(x, num_frames=self.frames)
        return x


def cross_attentions(network: nn.Module) -> dict[str, Any]:
    """All attentions to the context by their path, in the order of their columns in K."""
    return {
        f"{path}.transformer_blocks.{index}.attn2": block.attn2
        for path, module in network.named_modules()
        if isinstance(module, Transformer2DModel)
        for index, block in enumerate(module.transformer_blocks)
    }


class ProjectedAttention:
    """Attention from all frames of a clip to keys and values of that clip, as a processor of diffusers."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        """hidden_states: [(B F), P, C]; encoder_hidden_states: [B, T, 2 C], keys and values -> [(B F), P, C]."""
        clips = len(encoder_hidden_states)
        query = attn.to_q(hidden_states).reshape(clips, -1, encoder_hidden_states.shape[2] // 2)
        parts = (query, *encoder_hidden_states.chunk(2, dim=2))
        heads = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts)
        attended = functional.scaled_dot_product_attention(*heads)  # [B, heads, F * P, head width]
        out: Tensor = attn.to_out[0](attended.transpose(1, 2).reshape(*hidden_states.shape[:2], -1))
        return out


class KeysValues(nn.Module):
    """The projections of one cross-attention: tokens [B, T, D] -> [B, T, 2 C]."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_k = attention.to_k
        self.to_v = attention.to_v

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.to_k(tokens), self.to_v(tokens)], dim=2)


def project(sites: Iterable[nn.Module], tokens: Tensor) -> Tensor:
    """Keys and values of every site side by side: [B, T, D] -> [B, T, K]."""
    return torch.cat([site(tokens) for site in sites], dim=2)


class ModelScopeEncoder(nn.Module):
    """Embedding, encoder and middle block: the half that the UNet and the control net have in common."""

    def __init__(self, spec: UNetSpec, blocks: Any = None) -> None:
        super().__init__()
        self.spec = spec
        blocks = blocks or spec.blocks()
        self.time_proj = blocks.time_proj
        self.time_embedding = blocks.time_embedding
        self.conv_in = blocks.conv_in
        self.transformer_in = TransformerTemporalModel(
            spec.entry_heads, spec.head_width, in_channels=spec.widths[0], num_layers=1
        )
        self.down_blocks: Any = blocks.down_blocks
        self.mid_block: Any = blocks.mid_block

    def sites(self) -> list[nn.Module]:
        """What makes the keys and values of each cross-attention."""
        return [KeysValues(attention) for attention in cross_attentions(self).values()]

    def site_widths(self) -> list[int]:
        """How many columns of K each cross-attention takes."""
        return [2 * attention.inner_dim for attention in cross_attentions(self).values()]

    def step_inputs(self, frames: int, clips: int, timestep: Tensor, context: Tensor) -> StepInputs:
        """timestep: [1] or [B]; context: [B, T, K]."""
        sines = self.time_proj(timestep).to(self.conv_in.weight.dtype)
        embedding = self.time_embedding(sines).expand(clips, -1).repeat_interleave(frames, dim=0)
        return StepInputs(frames, embedding, iter(torch.split(context, self.site_widths(), dim=2)))

    def encode(self, x: Tensor, inputs: StepInputs, added: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """x: [(B F), C_in, h, w]; added: [(B F), C, h, w], to the first feature -> skips, middle feature."""
        x = inputs.temporal(self.transformer_in, self.conv_in(x))
        skips = [x if added is None else x + added]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                skips.append(layer(block, index, skips[-1], inputs))
            for downsampler in block.downsamplers or ():
                skips.append(downsampler(skips[-1]))
        return skips, self._middle(skips[-1], inputs)

    def _middle(self, x: Tensor, inputs: StepInputs) -> Tensor:
        block = self.mid_block
        # Unlike all others, this temporal convolution sees single frames, too.
        x = block.temp_convs[0](block.resnets[0](x, inputs.embedding), num_frames=inputs.frames)
        for index in range(len(block.attentions)):
            x = attend(block, index, x, inputs)
            x = convolve(block, index + 1, x, inputs)
        return x


class ModelScopeUNet(ModelScopeEncoder):
    """The whole UNet."""

    def __init__(self, spec: UNetSpec) -> None:
        blocks = spec.blocks()
        super().__init__(spec, blocks)
        self.up_blocks: Any = blocks.up_blocks
        self.conv_norm_out = blocks.conv_norm_out
        self.conv_out = blocks.conv_out

    def forward(self, x: Tensor, frames: int, timestep: Tensor, context: Tensor) -> Tensor:
        """x: [(B F), C_in, h, w]; timestep: [1] or [B]; context: [B, T, K] -> [(B F), C_out, h, w]."""
        inputs = self.step_inputs(frames, len(x) // frames, timestep, context)
        skips, x = self.encode(x, inputs)
        return self.decode(x, skips, inputs)

    def decode(self, x: Tensor, skips: list[Tensor], inputs: StepInputs) -> Tensor:
        """The middle feature and the skips, which are used up, to the prediction."""
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = layer(block, index, torch.cat([x, skips.pop()], dim=1), inputs)
            for upsampler in block.upsamplers or ():
                x = self.upsample(upsampler, x, skips[-1])
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(x)))
        return out

    def upsample(self, upsampler: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """`x` at the resolution of `skip`, which need not be twice its own."""
        out: Tensor = upsampler(x, output_size=skip.shape[-2:])
        return out


def layer(block: Any, index: int, x: Tensor, inputs: StepInputs) -> Tensor:
    """One layer of a block: residual block, temporal convolution and, where the block has them, transformers."""
    x = convolve(block, index, x, inputs)
    return attend(block, index, x, inputs) if hasattr(block, "attentions") else x


def convolve(block: Any, index: int, x: Tensor, inputs: StepInputs) -> Tensor:
    """Residual block and temporal convolution."""
    return inputs.temporal(block.temp_convs[index], block.resnets[index](x, inputs.embedding))


def attend(block: Any, index: int, x: Tensor, inputs: StepInputs) -> Tensor:
    """Spatial and temporal transformer."""
    x = block.attentions[index](x, encoder_hidden_states=next(inputs.context), return_dict=False)[0]
    return inputs.temporal(block.temp_attentions[index], x)
