"""The networks of one denoising step as `export/step.py` calls them, and the constants that they take."""

import torch
from torch import Tensor, nn

from stt2v.export.models.control_branch import ControlBranch
from stt2v.export.models.video_transformer import sinusoid
from stt2v.export.models.video_unet import VideoEncoder, VideoUNet, project


class FirstNetwork(nn.Module):
    """Stock SVD-XT: the first chunk from an image alone."""

    def __init__(self, unet: VideoUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, timestep: Tensor, image_latent: Tensor, context: Tensor, label: Tensor) -> Tensor:
        """x: [B, F, C, h, w]; image_latent: [B or (B F), C, h, w]; the rest as in `VideoUNet` -> like x."""
        noisy = concatenate(x, image_latent)
        out: Tensor = self.unet(noisy.flatten(0, 1), x.shape[1], timestep.reshape(-1), context, label)
        return out.reshape(x.shape)


class StreamingNetwork(nn.Module):
    """StreamingSVD: a chunk that goes on from control frames. The control branch sees the first frames of the chunk."""

    def __init__(self, unet: VideoUNet, control: ControlBranch) -> None:
        super().__init__()
        self.unet = unet
        self.control = control

    def features(
        self,
        noisy: Tensor,
        timestep: Tensor,
        control_context: Tensor,
        control_label: Tensor,
        control_embedding: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        """What the control branch makes of a chunk's first frames.

        noisy: [B, F, C_in, h, w]; timestep: [1 or (B F)]; control_embedding: [Fc, C, h, w], shared by the halves;
        the rest as in `ControlBranch`.
        """
        count, frames = len(control_embedding), noisy.shape[1]
        if len(timestep) > 1:
            timestep = timestep.reshape(-1, frames)[:, :count].flatten()
        embedding = control_embedding.repeat(len(noisy), 1, 1, 1)
        first = noisy[:, :count].flatten(0, 1)
        features: tuple[list[Tensor], Tensor] = self.control(
            first, count, timestep, control_context, control_label, embedding
        )
        return features

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        image_latent: Tensor,
        context: Tensor,
        label: Tensor,
        control_context: Tensor,
        control_label: Tensor,
        control_embedding: Tensor,
    ) -> Tensor:
        """Shapes as in `FirstNetwork` and `features`; timestep: [] or [(B F)] -> like x."""
        noisy = concatenate(x, image_latent)
        timestep = timestep.reshape(-1)
        control = self.features(noisy, timestep, control_context, control_label, control_embedding)
        out: Tensor = self.unet(noisy.flatten(0, 1), x.shape[1], timestep, context, label, control)
        return out.reshape(x.shape)


def concatenate(x: Tensor, image_latent: Tensor) -> Tensor:
    """x: [B, F, C, h, w]; image_latent: [B or (B F), C, h, w] -> [B, F, 2 C, h, w]."""
    image = image_latent.reshape(len(x), -1, *image_latent.shape[1:])
    return torch.cat([x, image.expand(-1, x.shape[1], -1, -1, -1)], dim=2)


def embed_vector(vector: Tensor, label_width: int) -> Tensor:
    """vector: [N, numbers], raw -> [N, label width]: each number as a sinusoid of its share of the width."""
    width = label_width // vector.shape[1]
    return sinusoid(vector.flatten(), width).reshape(len(vector), label_width)


class ConditionConstants(nn.Module):
    """What one UNet takes that is constant over the steps of a chunk. It holds only the weights for that."""

    def __init__(self, unet: VideoEncoder) -> None:
        super().__init__()
        self.sites = nn.ModuleList(unet.sites())
        self.label_embedding = unet.label_embedding
        self.label_width = unet.spec.label_width

    def forward(self, embedding: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """embedding: [1, 1, D]; vector: [3], raw -> context: [2, S], label: [1, E].

        The unconditional half, which sees no image, comes first.
        """
        pair = torch.cat([torch.zeros_like(embedding[0]), embedding[0]])
        sines = embed_vector(vector[None], self.label_width)
        label: Tensor = self.label_embedding(sines.to(embedding.dtype))
        return project(self.sites, pair), label


class StreamingConstants(nn.Module):
    """The constants of a streaming chunk, of the UNet and of the control branch."""

    def __init__(self, unet: VideoUNet, control: ControlBranch) -> None:
        super().__init__()
        self.unet = ConditionConstants(unet)
        self.control = ConditionConstants(control)
        self.frame_encoder = control.frame_encoder

    def forward(self, embedding: Tensor, vector: Tensor, control_frames: Tensor) -> tuple[Tensor, ...]:
        """embedding, vector: as in `ConditionConstants`; control_frames: [Fc, 3, H, W], in [-1, 1].

        Returns context [2, S], label [1, E], control_context [2, S'], control_label [1, E'], control_embedding
        [Fc, C, h, w].
        """
        return *self.unet(embedding, vector), *self.control(embedding, vector), self.frame_encoder(control_frames)
