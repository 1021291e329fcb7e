"""Videos of many prompts at once from the networks as they are trained, for figures; step by step what the engine does.

Noise is the engine's own, so that a video here is the one that `stt2v generate` makes with the same seed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stt2v.engine.blend import draw_offsets, window_starts
from stt2v.engine.models.mini import ENHANCER, MINI
from stt2v.engine.noise import NoiseSource
from stt2v.engine.solver import COEFFICIENTS
from stt2v.engine.stages.mini import STAGE
from stt2v.export.mini.diffusion import signal_and_noise, table
from stt2v.export.mini.networks import CHUNK, CONDITIONAL, SIDE, Core, Enhancer
from stt2v.export.mini.vae import BLOCK, CHANNELS, Autoencoder

ENCODED_AT_ONCE = 256  # frames


@dataclass(frozen=True)
class Settings:
    """How to sample. cam, apm: whether the memories are told anything; overlap: of the enhancer's windows."""

    chunks: int = 9
    steps: int = MINI.streaming.steps
    guidance: float = MINI.streaming.guidance[0]
    cam: bool = True
    apm: bool = True
    overlap: int = ENHANCER.overlap


@torch.no_grad()
def generate(core: Core, vae: Autoencoder, tokens: Tensor, noises: Sequence[NoiseSource], settings: Settings) -> Tensor:
    """tokens: [B, T]; a noise source for each -> base frames, [B, 8 + 8 * chunks, 3, 64, 64], in [-1, 1]."""
    grey = torch.zeros(len(tokens), 1, 3, SIDE, SIDE, device=tokens.device)
    control, anchor = grey.expand(-1, CONDITIONAL, -1, -1, -1), grey[:, 0]
    rows = table(settings.steps)
    parts: list[Tensor] = []
    for chunk in range(settings.chunks):
        start = _drawn(noises, "latents", chunk, (CHUNK, CHANNELS, SIDE // BLOCK, SIDE // BLOCK), tokens.device)
        known = _encoded(vae, control) if parts and settings.cam else None
        latents = denoise(_Guided(core, tokens, anchor, control, settings.guidance), start, rows, known)
        frames = vae.decode_scaled(latents).clamp(-1, 1)
        parts.append(frames if not parts else frames[:, CONDITIONAL:])
        control = frames[:, -CONDITIONAL:] if settings.cam else control
        anchor = parts[0][:, 0] if settings.apm else anchor
    return torch.cat(parts, dim=1)


def _encoded(vae: Autoencoder, frames: Tensor) -> Tensor:
    """frames: [B, F, 3, H, W] -> scaled latents, [B, F, C, h, w]."""
    return torch.unflatten(vae.scaled_latents(frames.flatten(0, 1)), 0, frames.shape[:2])


def _drawn(
    noises: Sequence[NoiseSource], stage: str, chunk: int, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    return torch.from_numpy(np.stack([noise.normal(stage, chunk, 0, shape) for noise in noises])).to(device)


class _Guided:
    """Classifier-free guidance: the unconditional half is told no text and sees a grey anchor."""

    def __init__(self, core: Core, tokens: Tensor, anchor: Tensor, control: Tensor, guidance: float) -> None:
        self._core = core
        self._guidance = guidance
        self._tokens = torch.cat([torch.zeros_like(tokens), tokens])
        self._anchor = torch.cat([torch.zeros_like(anchor), anchor])
        self._control = torch.cat([control, control])

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        pair = torch.cat([x, x])
        out = self._core(pair, timestep.expand(len(pair)), self._tokens, self._anchor, self._control)
        uncond, cond = out.chunk(2)
        guided: Tensor = uncond + self._guidance * (cond - uncond)
        return guided


def denoise(
    network: Callable[[Tensor, Tensor], Tensor], x: Tensor, rows: Tensor, known: Tensor | None = None
) -> Tensor:
    """All steps of a table from `engine/ddim.py`. x: [B, F, C, h, w]; known: what the first frames are, [B, n, ...]."""
    for row in rows:
        c = dict(zip(COEFFICIENTS, row.tolist(), strict=True))
        guided = network(c["c_in"] * x, torch.tensor([int(c["timestep"])], device=x.device))
        x0 = c["c_skip"] * x + c["c_out"] * guided
        if known is not None:
            x0 = torch.cat([known, x0[:, known.shape[1] :]], dim=1)
        x = c["k_x"] * x + c["k_x0"] * x0
    return x


@torch.no_grad()
def enhance(
    enhancer: Enhancer,
    core: Core,
    vae: Autoencoder,
    tokens: Tensor,
    frames: Tensor,
    noises: Sequence[NoiseSource],
    settings: Settings,
) -> Tensor:
    """SDEdit over windows with randomized blending: frames [B, N, 3, 64, 64] -> [B, N, 3, 128, 128], in [-1, 1]."""
    rows = table(ENHANCER.steps, ENHANCER.strength)
    starts = window_starts(frames.shape[1], CHUNK, settings.overlap)
    offsets = [draw_offsets(noise, f"{STAGE}_offset", len(rows), starts, CHUNK) for noise in noises]
    x, text = _noised(vae, frames, noises, int(rows[0, 1])), core.text(tokens)
    for step, row in enumerate(rows):
        blended = torch.empty_like(x)
        for window, start in enumerate(starts):
            done = denoise(lambda y, t: enhancer(y, t.expand(len(y)), text), x[:, start : start + CHUNK], row[None])
            for index, drawn in enumerate(offsets):
                cut = int(drawn[step, window])
                blended[index, start + cut : start + CHUNK] = done[index, cut:]
        x = blended
    return torch.cat([_decoded(vae, clip[None]) for clip in x])


def _noised(vae: Autoencoder, frames: Tensor, noises: Sequence[NoiseSource], timestep: int) -> Tensor:
    """Latents of the enlarged frames, noised up to the first timestep: [B, N, C, h, w]."""
    seen = ((frames.flatten(0, 1) + 1) * 127.5).floor() / 127.5 - 1  # the enhancer is given 8 bits
    large = functional.interpolate(seen, scale_factor=2, mode="bilinear")
    clean = torch.cat([vae.scaled_latents(part) for part in torch.split(large, ENCODED_AT_ONCE)])
    clean = torch.unflatten(clean, 0, frames.shape[:2])
    drawn = [_drawn(noises, f"{STAGE}_start", n, tuple(clean.shape[2:]), clean.device) for n in range(clean.shape[1])]
    signal, share = signal_and_noise(torch.full((len(frames),), timestep, device=frames.device))
    return signal * clean + share * torch.stack(drawn, dim=1)


def _decoded(vae: Autoencoder, latents: Tensor) -> Tensor:
    """latents: [1, N, C, h, w] -> frames, decoded in the groups of the engine."""
    return torch.cat(list(_groups(vae, latents)), dim=1)


def _groups(vae: Autoencoder, latents: Tensor) -> Iterator[Tensor]:
    done = 0
    for start in window_starts(latents.shape[1], CHUNK, 0):
        yield vae.decode_scaled(latents[:, start : start + CHUNK]).clamp(-1, 1)[:, done - start :]
        done = start + CHUNK
