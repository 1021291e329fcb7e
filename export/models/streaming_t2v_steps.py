"""StreamingT2V's networks of one denoising step as `export/step.py` calls them, and the constants that they take.

Letters as in `modelscope_unet`; Fc is the number of control frames, I that of image tokens. Of a pair of halves the
unconditional one comes first.
"""

import torch
from torch import Tensor, nn

from stt2v.export.models.modelscope_unet import ModelScopeEncoder, ModelScopeUNet, project
from stt2v.export.models.streaming_t2v import ControlNet, ImageTokens, StreamingUNet
from stt2v.export.step import Network


class TextNetwork(Network):
    """A UNet that is told nothing but a text: ModelScope's for the first chunk, and the enhancer's."""

    def __init__(self, unet: ModelScopeUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """x: [B, F, C, h, w]; timestep: [] or [B]; context: [B, T, K] -> like x."""
        out: Tensor = self.unet(x.flatten(0, 1), x.shape[1], timestep.reshape(-1), conditions["context"])
        return out.reshape(x.shape)


class StreamingNetwork(Network):
    """A chunk that goes on from control frames. The control net sees the chunk's first frames."""

    def __init__(self, unet: StreamingUNet, control: ControlNet) -> None:
        super().__init__()
        self.unet = unet
        self.control = control

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """x: [B, F, C, h, w]; timestep: [] or [B]; conditions: as from `StreamingConstants`, for B halves -> like x."""
        context, embedding = conditions["context"], conditions["control_embedding"]
        timestep = timestep.reshape(-1)
        first = x[:, : len(embedding)].flatten(0, 1)
        shared = embedding.repeat(len(x), 1, 1, 1)
        features = self.control(first, len(embedding), timestep, conditions["control_context"], shared)
        out: Tensor = self.unet(x.flatten(0, 1), x.shape[1], timestep, context, features)
        return out.reshape(x.shape)


class TextConstants(nn.Module):
    """What a UNet takes of a text, constant over all steps: text [B, T, D] -> context [B, T, K]."""

    def __init__(self, unet: ModelScopeEncoder) -> None:
        super().__init__()
        self.sites = nn.ModuleList(unet.sites())

    def forward(self, text: Tensor) -> Tensor:
        return project(self.sites, text)


class StreamingConstants(nn.Module):
    """What is constant over the steps of a streaming chunk, for the UNet and for the control net."""

    def __init__(self, unet: StreamingUNet, control: ControlNet) -> None:
        super().__init__()
        self.unet = TextConstants(unet)
        self.control = TextConstants(control)
        self.frame_encoder = control.frame_encoder

    def forward(self, text: Tensor, image_tokens: Tensor, control_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """text: [2, T, D]; image_tokens: [2, I, D]; control_frames: [Fc, 3, H, W], in [-1, 1].

        Returns context [2, T, K], control_context [2, T, K'], control_embedding [Fc, C, h, w].
        """
        context = self.unet(torch.cat([text, image_tokens], dim=1))
        return context, self.control(text), self.frame_encoder(control_frames)


class AnchorTokens(nn.Module):
    """Long-term memory: the anchor frame as image tokens. The unconditional half sees a grey picture.

    encoder: image [N, 3, H, W], in [-1, 1] -> embedding [N, 1, D].
    """

    def __init__(self, encoder: nn.Module, tokens: ImageTokens) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokens = tokens

    def forward(self, anchor: Tensor) -> Tensor:
        """anchor: [1, 3, H, W], in [-1, 1] -> image_tokens: [2, I, D]."""
        tokens: Tensor = self.tokens(self.encoder(torch.cat([torch.zeros_like(anchor), anchor])))
        return tokens
