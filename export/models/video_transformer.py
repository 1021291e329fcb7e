"""Spatio-temporal transformer of Stable Video Diffusion, with cross-attention to one context token as a broadcast.

Attending to a single token gives that token's value whatever the query, so cross-attention adds
`to_out(to_v(context))`. That is constant over the steps: `project` computes it once a chunk, and `forward` takes it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from stt2v.export.models.video_blocks import GROUPS, Mixer


def sinusoid(values: Tensor, width: int) -> Tensor:
    """values: [N] -> [N, width], float32, cosines first, period 10000 (Vaswani et al. 2017, 3.5)."""
    return get_timestep_embedding(values, width, flip_sin_to_cos=True, downscale_freq_shift=0)


class VideoTransformer(nn.Module):
    """Blocks over the pixels of a frame and over the frames of a pixel, in turn and blended.

    Letters as in `video_blocks`. The queries, keys and norm of cross-attention are held but have no effect.
    """

    def __init__(self, channels: int, head_width: int, context_width: int, depth: int) -> None:
        super().__init__()
        heads = channels // head_width
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, heads, head_width, cross_attention_dim=context_width) for _ in range(depth)
        )
        self.temporal_transformer_blocks = nn.ModuleList(
            TemporalBasicTransformerBlock(channels, channels, heads, head_width, cross_attention_dim=context_width)
            for _ in range(depth)
        )
        self.time_pos_embed = TimestepEmbedding(channels, 4 * channels, out_dim=channels)
        self.time_mixer = Mixer()
        self.proj_out = nn.Linear(channels, channels)

    def sites(self) -> Iterator[nn.Sequential]:
        """Value and output layers of each cross-attention, in the order in which `forward` takes their constants."""
        blocks: Iterator[tuple[Any, Any]] = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for pair in blocks:
            yield from (nn.Sequential(block.attn2.to_v, block.attn2.to_out[0]) for block in pair)

    def forward(self, x: Tensor, frames: int, context: Iterator[Tensor], images: Tensor | None = None) -> Tensor:
        """x: [(B F), C, h, w]; context: the constants [N, C] of each site; images: [B, F] -> like x."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        tokens = self.proj_in(tokens).reshape(-1, frames, *tokens.shape[1:])  # [B, F, P, C]
        position = self._position(tokens)
        share = self.time_mixer(None if images is None else images[:, :, None, None])
        for spatial, temporal in zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True):
            tokens = _spatial(spatial, tokens, _by_clip(next(context), tokens))
            moving = _temporal(temporal, tokens, position, _by_clip(next(context), tokens))  # [B, P, F, C]
            tokens = tokens + share * (moving.transpose(1, 2) - tokens)
        out: Tensor = self.proj_out(tokens.flatten(0, 1))
        return x + out.transpose(1, 2).reshape(x.shape)

    def _position(self, tokens: Tensor) -> Tensor:
        """What is added to the tokens of each frame: [F, 1, C]."""
        frames = torch.arange(tokens.shape[1], device=tokens.device)
        position: Tensor = self.time_pos_embed(sinusoid(frames, tokens.shape[-1]).to(tokens.dtype))
        return position[:, None]


def _by_clip(rows: Tensor, tokens: Tensor) -> Tensor:
    """[N, C] -> [B, 1 or F, C]."""
    return rows.reshape(len(tokens), -1, rows.shape[1])


def _spatial(block: Any, tokens: Tensor, context: Tensor) -> Tensor:
    """tokens: [B, F, P, C]; context: [B, 1 or F, C]; every frame by itself."""
    attended = block.attn1(block.norm1(tokens).flatten(0, 1)).reshape(tokens.shape)
    tokens = tokens + attended + context[:, :, None]
    out: Tensor = tokens + block.ff(block.norm3(tokens))
    return out


def _temporal(block: Any, tokens: Tensor, position: Tensor, context: Tensor) -> Tensor:
    """tokens: [B, F, P, C]; position: [F, 1, C]; context: [B, 1 or F, C], of which the first frame's counts.

    Every pixel by itself: returns [B, P, F, C]. What concerns a token alone comes before they are turned, so that they
    are normalised where they are added up.
    """
    inner = block.ff_in(block.norm_in(tokens + position))
    tokens = (inner + position + tokens).transpose(1, 2)
    attended = block.attn1(block.norm1(tokens).flatten(0, 1)).reshape(tokens.shape)
    tokens = tokens + attended + context[:, :1, None]
    out: Tensor = tokens + block.ff(block.norm3(tokens))
    return out
