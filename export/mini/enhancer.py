"""Training of the enhancer: SDEdit (Meng et al. 2022) on latents of frames of twice the side.

It begins with the streaming network's weights and learns only the less noisy timesteps that SDEdit visits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.mini.core import NAME as CORE
from stt2v.export.mini.core import worn
from stt2v.export.mini.data import Batch
from stt2v.export.mini.diffusion import TIMESTEPS, signal_and_noise
from stt2v.export.mini.networks import CHUNK, Core, Enhancer
from stt2v.export.mini.pool import Pool, Rows
from stt2v.export.mini.quick import quickened
from stt2v.export.mini.training import Run, fit, load
from stt2v.export.mini.vae import NAME as VAE
from stt2v.export.mini.vae import Autoencoder
from stt2v.export.mini.world import FULL, render

NAME = "enhancer"
RATE = 5e-4
BATCH = 32
POOL = 8 * 1024  # pairs of clips
NOISIEST = 0.7  # share of the timesteps that is learnt
COARSE_FROM = 500  # timestep from which noisy latents may be wholly those of enlarged small frames, as at run time
WITHOUT_TEXT = 0.1
SPRITE_WEIGHT = 2.0


@dataclass(frozen=True)
class Pairs(Rows):
    """Clips as they should be and as they come.

    fine, coarse: [N, F, C, h, w], float16, latents; cover: [N, F, 1, h, w], float16, of the sprite; tokens: [N, T].
    """

    fine: Tensor
    coarse: Tensor
    cover: Tensor
    tokens: Tensor


@torch.no_grad()
def pairs_of(batch: Batch, vae: Autoencoder, run: Run) -> Pairs:
    """The pairs of a batch of scenes: rendered in full size, and enlarged from worn frames of half the size."""
    frames, cover = render(batch.scenes, batch.times(CHUNK), FULL)
    small = worn(functional.avg_pool3d(frames, (1, 2, 2))).flatten(0, 1)
    pair = torch.cat([frames.flatten(0, 1), functional.interpolate(small, scale_factor=2, mode="bilinear")])
    with run.precision():
        fine, coarse = torch.unflatten(vae.scaled_latents(pair).half(), 0, (2, *frames.shape[:2]))
    return Pairs(fine, coarse, functional.avg_pool3d(cover, (1, 8, 8)).half(), batch.tokens)


def train_enhancer(run: Run) -> None:
    """The UNet for enhancement, told the same text as the streaming network, whose text encoder stays as it is."""
    torch.manual_seed(run.seed)
    vae, core = Autoencoder().to(run.device), Core().to(run.device)
    for name, module in ((VAE, vae), (CORE, core)):
        load(name, module, run.weights)
        module.eval().requires_grad_(False)
    model = Enhancer().to(run.device)
    run.begin(NAME, model)
    model.begin(core, anew=not run.resume)
    worker = quickened(run.worker(model))
    pool = Pool(lambda batch: pairs_of(batch, vae, run), run.batch or BATCH, POOL, run, run.seed + 5)
    fit(NAME, model, enhancer_loss(worker, pool.draw, core.text, run), run, RATE, worker)


def enhancer_loss(worker: Enhancer, draw: Callable[[], Pairs], text: nn.Module, run: Run) -> Callable[[int], Tensor]:
    """Squared error of v, more on the sprite. What is noisy may be coarse and worn, what is asked for is fine."""

    def loss(step: int) -> Tensor:
        pairs = draw()
        told = (torch.rand(len(pairs), 1, device=run.device) > WITHOUT_TEXT) * pairs.tokens
        with torch.no_grad():
            said = text(told).to(run.dtype)
        timestep = torch.randint(int(NOISIEST * TIMESTEPS), (len(pairs),), device=run.device)
        noisy, target = coarsely_noised(pairs.fine.float(), pairs.coarse.float(), timestep)
        predicted = worker(noisy.to(run.dtype), timestep, said)
        weight = 1 + SPRITE_WEIGHT * pairs.cover.float()
        total: Tensor = ((predicted.float() - target) ** 2 * weight).mean()
        return total

    return loss


def coarsely_noised(fine: Tensor, coarse: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents of clips that are the coarser the noisier, and the v that leads to the fine ones from there.

    fine, coarse: [B, F, C, h, w]; timestep: [B].
    """
    signal, share = signal_and_noise(timestep)
    coarseness = torch.rand(len(fine), device=fine.device) * (timestep / COARSE_FROM).clamp(max=1)
    mixed = torch.lerp(fine, coarse, coarseness[:, None, None, None, None])
    noisy = signal * mixed + share * torch.randn_like(fine)
    return noisy, (signal * noisy - fine) / share
