"""Training of the streaming network: first chunks and later ones together, from scratch."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stt2v.export.mini.data import Batch
from stt2v.export.mini.diffusion import TIMESTEPS, noised
from stt2v.export.mini.networks import CHUNK, CONDITIONAL, SIDE, Core
from stt2v.export.mini.pool import Pool, Rows
from stt2v.export.mini.quick import quickened
from stt2v.export.mini.training import Run, fit, load
from stt2v.export.mini.vae import NAME as VAE
from stt2v.export.mini.vae import Autoencoder
from stt2v.export.mini.world import render

NAME = "core"
RATE = 1e-3
BATCH = 256
POOL = 48 * 1024  # clips
FIRST, STILL = 0.3, 0.1  # shares of first chunks, and of chunks that begin with a picture
WITHOUT_ALL, WITHOUT_TEXT, WITHOUT_ANCHOR = 0.08, 0.04, 0.04
SPRITE_WEIGHT = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clips(Rows):
    """Chunks ready for training.

    latents: [N, F, C, h, w], float16; cover: [N, F, 1, h, w], float16, of the sprite; frames: [N, Fc, 3, H, W], uint8,
    the first of the chunk; anchor: [N, 3, H, W], uint8, another frame of the scene; tokens: [N, T].
    """

    latents: Tensor
    cover: Tensor
    frames: Tensor
    anchor: Tensor
    tokens: Tensor


@torch.no_grad()
def clips_of(batch: Batch, vae: Autoencoder, run: Run) -> Clips:
    """The clips of a batch of scenes, rendered and encoded."""
    other = batch.begin[:, None] - 64 * torch.rand_like(batch.begin)[:, None]
    frames, cover = render(batch.scenes, torch.cat([batch.times(CHUNK), other], dim=1), SIDE)
    with run.precision():
        latents = vae.scaled_latents(frames[:, :CHUNK].flatten(0, 1))
    small = functional.avg_pool2d(cover[:, :CHUNK].flatten(0, 1), 8)
    bytes_ = ((frames + 1) * 127.5).round().to(torch.uint8)
    return Clips(
        torch.unflatten(latents.half(), 0, (-1, CHUNK)),
        torch.unflatten(small.half(), 0, (-1, CHUNK)),
        bytes_[:, :CONDITIONAL],
        bytes_[:, CHUNK],
        batch.tokens,
    )


def train_core(run: Run) -> None:
    """Base model, CAM and APM in one stage. A resumed run leaves alone what the enhancer shares."""
    torch.manual_seed(run.seed)
    model = Core().to(run.device)
    run.begin(NAME, model)
    if run.resume:
        model.keep_shared()
    worker = quickened(run.worker(model))
    vae = Autoencoder().to(run.device).requires_grad_(False)
    load(VAE, vae, run.weights)
    pool = Pool(lambda batch: clips_of(batch, vae, run), run.batch or BATCH, POOL, run, run.seed + 3)
    logger.info("pool filled after %.0f s", time.monotonic() - run.started)
    fit(NAME, model, core_loss(worker, pool.draw, run), run, RATE / (2 if run.resume else 1), worker)


def core_loss(forward: Core, draw: Callable[[], Clips], run: Run) -> Callable[[int], Tensor]:
    """Squared error of v, more on the sprite."""

    def loss(step: int) -> Tensor:
        clips = draw()
        tokens, anchor, control = told(clips)
        latents = clips.latents.float()
        timestep = torch.randint(TIMESTEPS, (len(latents),), device=latents.device)
        noisy, target = noised(latents, torch.randn_like(latents), timestep)
        predicted = forward(noisy.to(run.dtype), timestep, tokens, anchor.to(run.dtype), control.to(run.dtype))
        weight = 1 + SPRITE_WEIGHT * clips.cover.float()
        total: Tensor = ((predicted.float() - target) ** 2 * weight).mean()
        return total

    return loss


def told(clips: Clips) -> tuple[Tensor, Tensor, Tensor]:
    """What the network is told of each clip: tokens, anchor, control frames, of which chance hides some."""
    device, size = clips.tokens.device, len(clips.tokens)
    kind, hidden = torch.rand(2, size, device=device)
    first = kind < FIRST
    still = (kind >= FIRST) & (kind < FIRST + STILL)
    frames = clips.frames.float() / 127.5 - 1
    control = torch.where(still[:, None, None, None, None], frames[:, :1].expand_as(frames), frames)
    control = worn(control) * ~first[:, None, None, None, None]
    anchor = worn((clips.anchor.float() / 127.5 - 1)[:, None])[:, 0]
    grey = first | (hidden < WITHOUT_ALL + WITHOUT_ANCHOR)
    silent = (hidden < WITHOUT_ALL) | (hidden > 1 - WITHOUT_TEXT)
    anchor = anchor * ~grey[:, None, None, None]
    return clips.tokens * ~silent[:, None], anchor.contiguous(), control.contiguous()


def worn(frames: Tensor) -> Tensor:
    """Frames with the faults of generated ones, so that the network mends them: blur, noise, a change of colour.

    frames: [N, F, 3, H, W].
    """
    blur, noise, tint = torch.rand(3, len(frames), 1, 1, 1, 1, device=frames.device) ** 2
    flat = functional.pad(frames.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    frames = torch.lerp(frames, functional.avg_pool2d(flat, 3, 1).reshape(frames.shape), blur)
    colour = torch.randn(len(frames), 1, 3, 1, 1, device=frames.device)
    worn: Tensor = frames + 0.1 * noise * torch.randn_like(frames) + 0.08 * tint * colour
    return worn
