"""I2VGen-XL (Zhang et al. 2023) with all that stays the same over the steps of a window taken out of the step network.

Blocks and weights are those of diffusers' `I2VGenXLUNet`; only the order of work is our own. Letters in shapes: B
guidance halves, F frames, C latent channels, T context tokens, D their width, E width of the time embedding.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from torch import Tensor, nn

from stt2v.export.step import Network


class WindowConditions(nn.Module):
    """What a window's network is told, once for all steps."""

    def __init__(self, unet: I2VGenXLUNet) -> None:
        super().__init__()
        self.time_proj = unet.time_proj
        self.fps_embedding = unet.fps_embedding
        self.context_embedding = unet.context_embedding
        self.image_latents_context_embedding = unet.image_latents_context_embedding
        self.image_latents_proj_in = unet.image_latents_proj_in
        self.image_latents_temporal_encoder = unet.image_latents_temporal_encoder

    def forward(
        self, text: Tensor, image_embedding: Tensor, image_latents: Tensor, fps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Context tokens, embedded frame rate, encoded image latents; the axis A is 1 where both halves share.

        text: [B, T, D]; image_embedding: [B, 1, D]; image_latents: [A, F, C, h, w]; fps: [A];
        returns context [B, T + 68, D], fps_embedding [A, E], image_maps [A, F, C, h, w].
        """
        fps_embedding = self.fps_embedding(self.time_proj(fps).to(text.dtype))
        context = self._context(text, image_embedding, image_latents[:, 0])
        return context, fps_embedding, self._image_maps(image_latents)

    def _context(self, text: Tensor, image_embedding: Tensor, first_latent: Tensor) -> Tensor:
        halves, _, width = text.shape
        grid = self.image_latents_context_embedding(first_latent)  # [A, D, 8, 8]
        latent_tokens = grid.flatten(2).transpose(1, 2).expand(halves, -1, -1)  # [B, 64, D]
        image_tokens = self.context_embedding(image_embedding).view(halves, -1, width)  # [B, 4, D]
        return torch.cat([text, latent_tokens, image_tokens], dim=1)

    def _image_maps(self, image_latents: Tensor) -> Tensor:
        shared, frames, channels, height, width = image_latents.shape
        maps = self.image_latents_proj_in(image_latents.flatten(0, 1))
        pixels = maps.view(shared, frames, channels, height * width).permute(0, 3, 1, 2)  # [A, hw, F, C]
        encoded: Tensor = self.image_latents_temporal_encoder(pixels.flatten(0, 1))  # [A * hw, F, C]
        encoded = encoded.view(shared, height, width, frames, channels)
        return encoded.permute(0, 3, 4, 1, 2)


class ClipAttention(AttnProcessor2_0):
    """Attention from the frames of a clip to one context of that clip.

    The frames are folded into the axis of queries, so keys and values are projected once a clip, not once a frame.
    """

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attended: Tensor = super().__call__(attn, hidden_states, *args, **kwargs)
        return attended.view_as(hidden_states)


class I2VGenXLNetwork(Network):
    """The part that runs every step.

    forward(x: [B, F, C, h, w], timestep: [], context, fps_embedding, image_maps as from `WindowConditions`) ->
    [B, F, C, h, w].
    """

    def __init__(self, unet: I2VGenXLUNet) -> None:
        super().__init__()
        unet.set_attn_processor(ClipAttention())  # type: ignore[no-untyped-call]  # a constructor of diffusers
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.conv_in = unet.conv_in
        self.transformer_in = unet.transformer_in
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block
        self.up_blocks = unet.up_blocks
        self.conv_norm_out = unet.conv_norm_out
        self.conv_act = unet.conv_act
        self.conv_out = unet.conv_out

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        halves, frames = x.shape[:2]
        image_maps = conditions["image_maps"].expand_as(x)
        embedding = self.time_embedding(self.time_proj(timestep[None]).to(x.dtype)) + conditions["fps_embedding"]
        embedding = embedding.expand(halves, -1).repeat_interleave(frames, dim=0)
        hidden = self.conv_in(torch.cat([x, image_maps], dim=2).flatten(0, 1))
        hidden = self.transformer_in(hidden, num_frames=frames, return_dict=False)[0]
        hidden = self._blocks(hidden, embedding, conditions["context"], frames)
        out: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return out.view(x.shape)

    def _blocks(self, hidden: Tensor, embedding: Tensor, context: Tensor, frames: int) -> Tensor:
        """hidden: [B * F, channels, h, w] down and up again, with the skips between."""
        skips = [hidden]
        for block in self.down_blocks:
            hidden, outputs = block(hidden, temb=embedding, num_frames=frames, **_attending(block, context))
            skips.extend(outputs)
        hidden = self.mid_block(hidden, embedding, encoder_hidden_states=context, num_frames=frames)
        for block in self.up_blocks:
            count = len(list(block.get_submodule("resnets").children()))
            used, skips = skips[-count:], skips[:-count]
            hidden = block(
                hidden,
                res_hidden_states_tuple=tuple(used),
                temb=embedding,
                # Heights such as 90 are not a multiple of 8: go up to what the next skip has.
                upsample_size=tuple(skips[-1].shape[-2:]) if skips else None,
                num_frames=frames,
                **_attending(block, context),
            )
        return hidden


def _attending(block: nn.Module, context: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
