"""The image autoencoder of latent diffusion (Rombach et al. 2022) as graphs over scaled latents."""

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn


class LatentEncoder(nn.Module):
    """image: [B, 3, H, W], in [-1, 1]; noise: [B, C, h, w] -> a sample of the scaled latents, [B, C, h, w]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.scale = float(vae.config["scaling_factor"])

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        posterior = self.vae.encode(image).latent_dist
        sample: Tensor = posterior.mean + posterior.std * noise
        return sample * self.scale


class LatentDecoder(nn.Module):
    """latents: [B, C, h, w], scaled -> frames: [B, 3, H, W], about [-1, 1]."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae
        self.scale = float(vae.config["scaling_factor"])

    def forward(self, latents: Tensor) -> Tensor:
        frames: Tensor = self.vae.decode(latents / self.scale, return_dict=False)[0]
        return frames
