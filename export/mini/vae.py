"""The autoencoder of `mini`: 8 pixels to a side of a latent, 16 channels, a decoder over time.

The published classes work here on blocks of 2 x 2 pixels, beside a linear path of 8 x 8 blocks that begins as their
principal components. Measured reason: without both, five minutes on an H100 gave 23 dB, less than the components alone.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.mini.adapt import adapt
from stt2v.export.mini.data import batches, draw_batch
from stt2v.export.mini.training import Run, fit, load, save
from stt2v.export.mini.world import render
from stt2v.export.models.temporal_vae import LATENT_SCALE, LatentEncoder, TemporalDecoder, VaeSpec
from stt2v.export.models.video_blocks import fold, temporal_conv, unfold

PATCH, BLOCK = 2, 8
CHANNELS = 16
SPEC = VaeSpec(widths=(64, 64, 64), blocks=1, latent_channels=CHANNELS)
GROUPS = 8

NAME = "vae"
CHUNK = 16  # frames that are decoded together
RATE = 1e-3
SHARES = {64: 10, 128: 3}  # clips of a batch by the size of their frames
KL_WEIGHT = 3e-4
FIRST_LOG_VARIANCE = -4.0
SPRITE_WEIGHT = 3.0  # what a pixel of a sprite counts more than one of the background
EDGE_WEIGHT = 0.5
WORST_LATENTS = 0.35  # standard deviations of noise on scaled latents


class PatchEncoder(nn.Module):
    """frames: [N, 3, H, W], in [-1, 1] -> the mode of their latents, not scaled, [N, C, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = LatentEncoder(SPEC)
        self.deep.encoder.conv_in = nn.Conv2d(3 * PATCH**2, SPEC.widths[0], 3, padding=1)
        nn.init.zeros_(self.deep.encoder.conv_out.weight)
        with torch.no_grad():
            _, bias = self.deep.quant_conv.parameters()
            bias[:CHANNELS], bias[CHANNELS:] = 0.0, FIRST_LOG_VARIANCE
        self.linear = nn.Conv2d(3, CHANNELS, BLOCK, BLOCK)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents."""
        mean, log_variance = self.deep.moments(functional.pixel_unshuffle(frames, PATCH)).chunk(2, dim=1)
        return mean + self.linear(frames), log_variance

    def forward(self, frames: Tensor) -> Tensor:
        return self.moments(frames)[0]


class PatchDecoder(nn.Module):
    """Latents of clips to frames."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = TemporalDecoder(SPEC)
        self.deep.conv_out = nn.Conv2d(SPEC.widths[0], 3 * PATCH**2, 3, padding=1)
        self.deep.time_mix_conv = temporal_conv(3 * PATCH**2)
        for parameter in self.deep.time_mix_conv.parameters():
            nn.init.zeros_(parameter)
        self.linear = nn.ConvTranspose2d(CHANNELS, 3, BLOCK, BLOCK)

    def forward(self, latents: Tensor, frames: int | None = None) -> Tensor:
        """latents: [(B F), C, h, w], not scaled, of clips of F `frames` (None: one clip) -> [(B F), 3, H, W]."""
        part, count = self.deep, frames or len(latents)
        x = part.middle_in(part.conv_in(latents), count)
        x = part.middle_out(part.middle_attention(x), count)
        for level in reversed(part.up):
            x = level(x, count)
        x = part.conv_out(functional.silu(part.norm_out(x)))
        x = unfold(part.time_mix_conv(fold(x, count)), x.shape[2], x.shape[3])
        out: Tensor = self.linear(latents) + functional.pixel_shuffle(x, PATCH)
        return out


class Autoencoder(nn.Module):
    """Encoder and decoder as they are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PatchEncoder()
        self.decoder = PatchDecoder()
        adapt(self, GROUPS)

    def forward(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """frames: [B, F, 3, H, W], in [-1, 1]; noise: [(B F), C, h, w] -> frames again, mean KL divergence."""
        mean, log_variance = (value.float() for value in self.encoder.moments(frames.flatten(0, 1)))
        log_variance = log_variance.clamp(-12, 4)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        latents = mean + (0.5 * log_variance).exp() * noise
        decoded: Tensor = self.decoder(latents, frames.shape[1])
        return decoded.reshape(frames.shape), divergence

    def scaled_latents(self, frames: Tensor) -> Tensor:
        """frames: [N, 3, H, W], in [-1, 1] -> the scaled latents that are denoised, float32, [N, C, h, w]."""
        latents: Tensor = self.encoder(frames)
        return latents.float() * LATENT_SCALE

    def decode_scaled(self, latents: Tensor) -> Tensor:
        """latents: [B, F, C, h, w], scaled -> frames: [B, F, 3, H, W], about [-1, 1]."""
        frames: Tensor = self.decoder(latents.flatten(0, 1) / LATENT_SCALE, latents.shape[1])
        return torch.unflatten(frames, 0, latents.shape[:2])


@torch.no_grad()
def begin_linear(model: Autoencoder, frames: Tensor) -> None:
    """Set the linear paths to the principal components of blocks, latents of unit spread. frames: [N, 3, H, W]."""
    blocks = functional.unfold(frames, BLOCK, stride=BLOCK).transpose(1, 2).reshape(-1, 3, BLOCK**2).double()
    mean = blocks.mean((0, 2))  # of each colour, since a decoder's bias knows no place
    middle = (blocks - mean[:, None]).flatten(1)
    values, vectors = torch.linalg.eigh(middle.T @ middle / len(middle))
    spread, axes = values[-CHANNELS:].sqrt()[:, None], vectors.T[-CHANNELS:]
    shape = (CHANNELS, 3, BLOCK, BLOCK)
    weight, bias = model.encoder.linear.parameters()
    weight.copy_((axes / spread).reshape(shape))
    bias.copy_(-weight.sum((2, 3)) @ mean.to(weight))
    weight, bias = model.decoder.linear.parameters()
    weight.copy_((axes * spread).reshape(shape))
    bias.copy_(mean)


def reconstruction_loss(decoded: Tensor, frames: Tensor, cover: Tensor) -> Tensor:
    """Absolute error of colours and of edges, more on the sprite. All [B, F, C, H, W]."""
    weight = 1 + SPRITE_WEIGHT * cover
    error = decoded.float() - frames
    across, down = error.diff(dim=4) * weight[..., 1:], error.diff(dim=3) * weight[..., 1:, :]
    edges = across.abs().mean() + down.abs().mean()
    return (error.abs() * weight).mean() + EDGE_WEIGHT * edges


def vae_loss(model: Autoencoder, run: Run) -> Callable[[int], Tensor]:
    """The training loss, on clips of both frame sizes in turn."""
    forward = run.prepared(model)
    clips = both_sizes(run, run.seed)

    def loss(step: int) -> Tensor:
        frames, cover = clips(step)
        side = frames.shape[-1] // BLOCK
        noise = torch.randn(frames.shape[0] * CHUNK, CHANNELS, side, side, device=run.device)
        with run.precision():
            decoded, divergence = forward(frames, noise)
        total: Tensor = reconstruction_loss(decoded, frames, cover) + KL_WEIGHT * divergence
        return total

    return loss


def both_sizes(run: Run, seed: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Clips and their sprites' cover for a step, as from `render`; every fourth time of the larger size."""
    sources = {size: batches(run.batch or count, seed + size, run.device) for size, count in SHARES.items()}

    def clips(step: int) -> tuple[Tensor, Tensor]:
        size = 128 if step % 4 == 3 else 64
        batch = next(sources[size])
        return render(batch.scenes, batch.times(CHUNK), size)

    return clips


def train_vae(run: Run) -> None:
    """The first stage. Ends with latents of unit spread in every channel."""
    torch.manual_seed(run.seed)
    model = Autoencoder().to(run.device)
    begin_linear(model, sample_frames(run.device))
    run.begin(NAME, model)
    trained = fit(NAME, model, vae_loss(model, run), run, RATE)
    normalise(trained, sample_frames(run.device))
    save(NAME, trained, run.out)


def train_decoder(run: Run) -> None:
    """The decoder alone, which learns to mend latents that are a little off, as generated ones are.

    Latents mean what they meant before, so networks that make them stay valid.
    """
    torch.manual_seed(run.seed)
    model = Autoencoder().to(run.device)
    load(NAME, model, run.weights)
    model.encoder.requires_grad_(False)
    fit(NAME, model, decoder_loss(model, run), run, RATE / 2)


def decoder_loss(model: Autoencoder, run: Run) -> Callable[[int], Tensor]:
    """As `vae_loss`, from latents with noise of up to `WORST_LATENTS` standard deviations, another for each clip."""
    decode = run.prepared(model.decoder)
    clips = both_sizes(run, run.seed + 6)

    def loss(step: int) -> Tensor:
        frames, cover = clips(step)
        with torch.no_grad(), run.precision():
            latents = torch.unflatten(model.scaled_latents(frames.flatten(0, 1)), 0, frames.shape[:2])
        amount = WORST_LATENTS * torch.rand(len(frames), 1, 1, 1, 1, device=run.device)
        noisy = (latents + amount * torch.randn_like(latents)).flatten(0, 1) / LATENT_SCALE
        with run.precision():
            decoded = decode(noisy, CHUNK)
        return reconstruction_loss(decoded.reshape(frames.shape), frames, cover)

    return loss


def sample_frames(device: str) -> Tensor:
    """A fixed set of frames to take statistics of: [N, 3, 64, 64]."""
    batch = draw_batch(64, np.random.default_rng(1), device)
    return render(batch.scenes, batch.times(4), 64)[0].flatten(0, 1)


@torch.no_grad()
def normalise(model: Autoencoder, frames: Tensor) -> None:
    """Fold the spread of each latent channel into the weights, so that scaled latents have a deviation of 1."""
    spread = model.scaled_latents(frames).std(dim=(0, 2, 3))  # [C]
    for layer in (model.encoder.deep.quant_conv, model.encoder.linear):
        weight, bias = layer.parameters()
        weight[:CHANNELS].div_(spread[:, None, None, None])
        bias[:CHANNELS].div_(spread)
    model.decoder.deep.conv_in.weight.mul_(spread[None, :, None, None])
    model.decoder.linear.weight.mul_(spread[:, None, None, None])
