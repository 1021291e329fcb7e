"""Training of the streaming network: first chunks and later ones together, from scratch."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.mini.captions import TOKENS
from stt2v.export.mini.data import Batch, batches
from stt2v.export.mini.diffusion import TIMESTEPS, noised
from stt2v.export.mini.networks import CHUNK, CONDITIONAL, SIDE, Core
from stt2v.export.mini.training import Run, fit, load
from stt2v.export.mini.vae import NAME as VAE
from stt2v.export.mini.vae import Autoencoder
from stt2v.export.mini.world import render

NAME = "core"
RATE = 1e-3
BATCH = 256
POOL = 48 * 1024  # clips kept on the device
FILLED_AT_ONCE = 256
RENEWED = 4  # one clip of a batch in so many is new; the others are drawn from the pool
FIRST, STILL = 0.3, 0.1  # shares of first chunks, and of chunks that begin with a picture
WITHOUT_ALL, WITHOUT_TEXT, WITHOUT_ANCHOR = 0.08, 0.04, 0.04
SPRITE_WEIGHT = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clips:
    """Chunks ready for training.

    latents: [N, F, C, h, w], float16; cover: [N, F, 1, h, w], float16, of the sprite; frames: [N, Fc, 3, H, W], uint8,
    the first of the chunk; anchor: [N, 3, H, W], uint8, another frame of the scene; tokens: [N, T].
    """

    latents: Tensor
    cover: Tensor
    frames: Tensor
    anchor: Tensor
    tokens: Tensor

    def at(self, index: Tensor) -> "Clips":
        """Some of them."""
        return Clips(**{name: value[index] for name, value in vars(self).items()})

    def replace(self, index: Tensor, new: "Clips") -> None:
        """Overwrite some of them."""
        for name, value in vars(self).items():
            value[index] = getattr(new, name)


class Pool:
    """A store of clips on the device that is renewed bit by bit: rendering and encoding cost more than reading."""

    def __init__(self, vae: Autoencoder, run: Run, batch: int) -> None:
        self._vae, self._run = vae, run
        self._fresh = self._stream(batches(batch // RENEWED, run.seed + 3, run.device))
        self._batch = batch
        first = self._stream(batches(FILLED_AT_ONCE, run.seed + 4, run.device))
        parts = [next(first) for _ in range(POOL // FILLED_AT_ONCE if batch == BATCH else 1)]
        self._clips = Clips(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))
        self._next = 0

    def _stream(self, source: Iterator[Batch]) -> Iterator[Clips]:
        for batch in source:
            yield self._made(batch)

    @torch.no_grad()
    def _made(self, batch: Batch) -> Clips:
        other = batch.begin[:, None] - 64 * torch.rand_like(batch.begin)[:, None]
        frames, cover = render(batch.scenes, torch.cat([batch.times(CHUNK), other], dim=1), SIDE)
        with self._run.precision():
            latents = self._vae.scaled_latents(frames[:, :CHUNK].flatten(0, 1))
        small = functional.avg_pool2d(cover[:, :CHUNK].flatten(0, 1), 8)
        bytes_ = ((frames + 1) * 127.5).round().to(torch.uint8)
        return Clips(
            torch.unflatten(latents.half(), 0, (-1, CHUNK)),
            torch.unflatten(small.half(), 0, (-1, CHUNK)),
            bytes_[:, :CONDITIONAL],
            bytes_[:, CHUNK],
            batch.tokens,
        )

    def draw(self) -> Clips:
        """One batch; also renews a part of the pool."""
        size, new = len(self._clips.tokens), next(self._fresh)
        places = (self._next + torch.arange(len(new.tokens), device=new.tokens.device)) % size
        self._clips.replace(places, new)
        self._next = (self._next + len(places)) % size
        return self._clips.at(torch.randint(size, (self._batch,), device=places.device))


def train_core(run: Run) -> None:
    """Base model, CAM and APM in one stage. Compiles before it asks for the autoencoder's weights."""
    torch.manual_seed(run.seed)
    size = run.batch or BATCH
    model = Core().to(run.device).eval()
    forward = run.prepared(model)
    core_loss(forward, lambda: blank(size, run.device), run)(0).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    logger.info("ready after %.0f s", time.monotonic() - run.started)
    vae = Autoencoder().to(run.device).requires_grad_(False)
    load(VAE, vae, run.weights)
    pool = Pool(vae, run, size)
    logger.info("pool filled after %.0f s", time.monotonic() - run.started)
    fit(NAME, model, core_loss(forward, pool.draw, run), run, RATE / (2 if run.resume else 1))


def core_loss(forward: nn.Module, draw: Callable[[], Clips], run: Run) -> Callable[[int], Tensor]:
    """Squared error of v, more on the sprite."""

    def loss(step: int) -> Tensor:
        clips = draw()
        tokens, anchor, control = told(clips)
        latents = clips.latents.float()
        timestep = torch.randint(TIMESTEPS, (len(latents),), device=latents.device)
        noisy, target = noised(latents, torch.randn_like(latents), timestep)
        with run.precision():
            predicted = forward(noisy, timestep, tokens, anchor, control)
        weight = 1 + SPRITE_WEIGHT * clips.cover.float()
        total: Tensor = ((predicted.float() - target) ** 2 * weight).mean()
        return total

    return loss


def blank(size: int, device: str) -> Clips:
    """Clips without content, of the shapes of real ones."""
    side = SIDE // 8
    return Clips(
        torch.zeros(size, CHUNK, 16, side, side, dtype=torch.float16, device=device),
        torch.zeros(size, CHUNK, 1, side, side, dtype=torch.float16, device=device),
        torch.zeros(size, CONDITIONAL, 3, SIDE, SIDE, dtype=torch.uint8, device=device),
        torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8, device=device),
        torch.zeros(size, TOKENS, dtype=torch.int64, device=device),
    )


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
