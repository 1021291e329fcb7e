"""Videos from the trained networks, many prompts at once: for contact sheets and measurements, not for users."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from stt2v.engine.solver import COEFFICIENTS
from stt2v.export.mini.diffusion import noised, table
from stt2v.export.mini.networks import CHUNK, CONDITIONAL, SIDE, Core, Enhancer
from stt2v.export.mini.vae import CHANNELS, Autoencoder


@dataclass(frozen=True)
class Settings:
    """How to sample. cam, apm: whether the memories are told anything."""

    chunks: int = 9
    steps: int = 20
    guidance: float = 2.5
    cam: bool = True
    apm: bool = True
    seed: int = 33
    enhancer_steps: int = 16
    strength: float = 0.5
    overlap: int = 8


@torch.no_grad()
def generate(core: Core, vae: Autoencoder, tokens: Tensor, settings: Settings) -> Tensor:
    """tokens: [B, T] -> frames of all chunks, [B, 8 + 8 * chunks, 3, 64, 64], in [-1, 1]."""
    random = torch.Generator(tokens.device).manual_seed(settings.seed)
    grey = torch.zeros(len(tokens), 1, 3, SIDE, SIDE, device=tokens.device)
    control, anchor = grey.expand(-1, CONDITIONAL, -1, -1, -1), grey[:, 0]
    parts: list[Tensor] = []
    for _ in range(settings.chunks):
        start = torch.randn(len(tokens), CHUNK, CHANNELS, SIDE // 8, SIDE // 8, device=tokens.device, generator=random)
        latents = denoise(_Guided(core, tokens, anchor, control, settings.guidance), start, table(settings.steps))
        frames = vae.decode_scaled(latents).clamp(-1, 1)
        parts.append(frames if not parts else frames[:, CONDITIONAL:])
        control = frames[:, -CONDITIONAL:] if settings.cam else control
        anchor = parts[0][:, 0] if settings.apm else anchor
    return torch.cat(parts, dim=1)


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
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            out = self._core(pair, timestep.expand(len(pair)), self._tokens, self._anchor, self._control).float()
        uncond, cond = out.chunk(2)
        guided: Tensor = uncond + self._guidance * (cond - uncond)
        return guided


def denoise(network: Callable[[Tensor, Tensor], Tensor], x: Tensor, rows: Tensor) -> Tensor:
    """All steps of a table from `engine/ddim.py`. x: [B, F, C, h, w]."""
    for row in rows:
        c = dict(zip(COEFFICIENTS, row.tolist(), strict=True))
        guided = network(c["c_in"] * x, torch.tensor([int(c["timestep"])], device=x.device))
        x = c["k_x"] * x + c["k_x0"] * (c["c_skip"] * x + c["c_out"] * guided)
    return x


@torch.no_grad()
def enhance(enhancer: Enhancer, core: Core, vae: Autoencoder, tokens: Tensor, frames: Tensor, how: Settings) -> Tensor:
    """SDEdit over windows with randomized blending: frames [B, N, 3, 64, 64] -> [B, N, 3, 128, 128], in [-1, 1].

    After each step, two neighbouring windows hand over at a random frame of their overlap.
    """
    random = torch.Generator(frames.device).manual_seed(how.seed)
    large = functional.interpolate(frames.flatten(0, 1), scale_factor=2, mode="bilinear")
    latents = torch.cat([vae.scaled_latents(part) for part in torch.split(large, 256)])
    clean = torch.unflatten(latents, 0, frames.shape[:2])
    rows = table(how.enhancer_steps, how.strength)
    noise = torch.randn(clean.shape, device=clean.device, generator=random)
    first = torch.full((len(frames),), int(rows[0, 1]), device=frames.device)
    x = noised(clean, noise, first)[0]
    text = core.text(tokens)
    starts = range(0, frames.shape[1] - CHUNK + 1, CHUNK - how.overlap)
    for row in rows:
        blended = torch.empty_like(x)
        for number, start in enumerate(starts):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
                done = denoise(
                    lambda y, t: enhancer(y, t.expand(len(y)), text).float(), x[:, start : start + CHUNK], row[None]
                )
            cut = int(torch.randint(how.overlap + 1, (), generator=random, device=x.device)) if number else 0
            blended[:, start + cut : start + CHUNK] = done[:, cut:]
        x = blended
    parts = [vae.decode_scaled(part) for part in torch.split(x, CHUNK, dim=1)]
    return torch.cat(parts, dim=1).clamp(-1, 1)
