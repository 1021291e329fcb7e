"""Scenes to frames, as tensor code on any device: a moving sprite over a still background."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stt2v.export.mini.atlas import sprites
from stt2v.export.mini.scene import BACKGROUNDS, MOTIONS, Scene

FULL = 128  # the larger of the two frame sizes; the smaller is half of it
TEXTURE_SEED = 7

TOP_AND_BOTTOM = {
    "pink": ((0.95, 0.68, 0.76), (0.95, 0.68, 0.76)),
    "grey": ((0.60, 0.60, 0.62), (0.60, 0.60, 0.62)),
    "mint": ((0.64, 0.88, 0.78), (0.64, 0.88, 0.78)),
    "sunset": ((0.42, 0.24, 0.52), (0.98, 0.62, 0.34)),
    "night": ((0.03, 0.04, 0.14), (0.10, 0.12, 0.32)),
    "grass": ((0.42, 0.72, 0.28), (0.22, 0.50, 0.16)),
    "water": ((0.22, 0.50, 0.80), (0.10, 0.30, 0.62)),
    "sand": ((0.93, 0.82, 0.58), (0.84, 0.70, 0.44)),
}
"""Colours of the backgrounds' first and last rows, in [0, 1]."""


@dataclass(frozen=True)
class SceneBatch:
    """Scenes as tensors [B] of the same names."""

    object: Tensor
    motion: Tensor
    background: Tensor
    period: Tensor
    phase: Tensor
    across: Tensor
    down: Tensor
    reach: Tensor
    size: Tensor
    shift: Tensor
    light: Tensor

    @classmethod
    def of(cls, scenes: Sequence[Scene], device: torch.device | str = "cpu") -> "SceneBatch":
        """scenes -> one batch on a device."""
        columns = {f.name: np.array([getattr(scene, f.name) for scene in scenes]) for f in fields(cls)}
        typed = {name: v.astype(np.int64 if v.dtype.kind == "i" else np.float32) for name, v in columns.items()}
        return cls(**{name: torch.from_numpy(values).to(device) for name, values in typed.items()})


def render(scenes: SceneBatch, times: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Frames of the scenes at given times.

    times: [B, F], float32, in frames; size: 64 or 128. Returns frames [B, F, 3, S, S], float32, in [-1, 1], and how
    far the sprite covers each pixel, [B, F, 1, S, S], in [0, 1].
    """
    sprite = _atlas(size, str(times.device))[scenes.object]  # [B, 4, s, s]
    grid = _places(scenes, times, size)  # [B, F, S, S, 2]
    rows = functional.grid_sample(sprite, grid.flatten(1, 2), "bilinear", "zeros", align_corners=False)
    layer = torch.unflatten(rows, 2, (times.shape[1], size)).transpose(1, 2)  # [B, F, 4, S, S]
    cover = layer[:, :, 3:]
    frames = layer[:, :, :3] + (1 - cover) * _backdrop(scenes, size)[:, None]
    return 2 * frames.clamp(0, 1) - 1, cover


def _places(scenes: SceneBatch, times: Tensor, size: int) -> Tensor:
    """Where in the sprite each pixel looks: [B, F, S, S, 2], in [-1, 1] inside the sprite."""
    x, y, scale, angle = (value[..., None, None] for value in _poses(scenes, times))
    pixels = (torch.arange(size, device=times.device) + 0.5) / size
    dx, dy = pixels[None, :] - x, pixels[:, None] - y  # [B, F, 1, S], [B, F, S, 1]
    half = scale / 2
    across = (torch.cos(angle) * dx + torch.sin(angle) * dy) / half
    down = (torch.cos(angle) * dy - torch.sin(angle) * dx) / half
    return torch.stack([across, down], -1)


def _poses(scenes: SceneBatch, times: Tensor) -> tuple[Tensor, ...]:
    """Middle (across, down), side and clockwise angle of the sprites: each [B, F]."""
    turn = 2 * torch.pi * (times / scenes.period[:, None] + scenes.phase[:, None])
    reach, zero = scenes.reach[:, None], torch.zeros_like(turn)
    # A hop takes half a period, so a ball that goes to and fro touches the ground at both ends and in the middle.
    hop = -0.5 + 1.6 * torch.sin(turn).abs()
    by_motion = {
        "side": (torch.sin(turn), zero, zero, zero),
        "rise": (zero, torch.sin(turn), zero, zero),
        "circle": (torch.cos(turn), torch.sin(turn), zero, zero),
        "bounce": (torch.cos(turn), -hop, zero, zero),
        "pulse": (zero, zero, torch.sin(turn), zero),
        "spin": (zero, zero, zero, turn),
    }
    stacked = torch.stack([torch.stack(by_motion[name]) for name in MOTIONS])  # [motions, 4, B, F]
    x, y, growth, angle = stacked[scenes.motion, :, torch.arange(len(times), device=times.device)].unbind(1)
    # What pulses is smaller on average, so that at its largest it still fits.
    pulses = (scenes.motion == MOTIONS.index("pulse"))[:, None]
    side = scenes.size[:, None] * torch.where(pulses, 1.05 + 0.3 * growth, 1.0)
    return scenes.across[:, None] + reach * x, scenes.down[:, None] + reach * y, side, angle


def _backdrop(scenes: SceneBatch, size: int) -> Tensor:
    """[B, 3, S, S], in [0, 1]: each background's texture, moved around sideways, brighter or darker."""
    texture = _textures(str(scenes.shift.device))[scenes.background]  # [B, 3, FULL, FULL]
    columns = torch.arange(FULL, device=texture.device) + (scenes.shift[:, None] * FULL).long()
    moved = texture.gather(3, (columns % FULL)[:, None, None, :].expand_as(texture))
    lit = (moved * scenes.light[:, None, None, None]).clamp(0, 1)
    return lit if size == FULL else functional.avg_pool2d(lit, FULL // size)


@cache
def _atlas(size: int, device: str) -> Tensor:
    """Sprites at about the resolution they are shown in: [N, 4, s, s]."""
    full = torch.from_numpy(sprites()).to(device)
    return full if size == FULL else functional.avg_pool2d(full, FULL // size)


@cache
def _textures(device: str) -> Tensor:
    """[backgrounds, 3, FULL, FULL], in [0, 1], without a seam at the sides."""
    ends = torch.tensor([TOP_AND_BOTTOM[name] for name in BACKGROUNDS])  # [backgrounds, 2, 3]
    ramp = torch.linspace(0, 1, FULL)[:, None, None]
    colours = ends[:, 0] * (1 - ramp) + ends[:, 1] * ramp  # [FULL, backgrounds, 3]
    still = colours.permute(1, 2, 0)[..., None].expand(-1, -1, -1, FULL)
    return (still + _reliefs()[:, None]).clamp(0, 1).to(device)


def _reliefs() -> Tensor:
    """What is added to the plain backgrounds: [backgrounds, FULL, FULL]; blades, waves, ripples, stars."""
    x = torch.arange(FULL) / FULL * 2 * torch.pi
    down = torch.linspace(0, 1, FULL)[:, None]
    blades = 0.06 * torch.sin(16 * x + 3 * torch.sin(9 * down * 3)) * torch.sin(5 * x + 40 * down)
    waves = 0.07 * torch.sin(50 * down + 1.5 * torch.sin(2 * x)) * (0.6 + 0.4 * torch.sin(3 * x))
    ripples = 0.04 * torch.sin(30 * down + 2.0 * torch.sin(3 * x))
    by_name = {"grass": blades, "water": waves, "sand": ripples, "night": _stars()}
    return torch.stack([by_name.get(name, torch.zeros(FULL, FULL)) for name in BACKGROUNDS])


def _stars() -> Tensor:
    """Soft dots at fixed places: [FULL, FULL]."""
    random = np.random.default_rng(TEXTURE_SEED)
    sky = torch.zeros(FULL, FULL)
    places = torch.arange(FULL, dtype=torch.float32)
    for x, y in random.uniform(4, FULL - 4, (12, 2)):
        sky += torch.exp(-((places[None, :] - x) ** 2 + (places[:, None] - y) ** 2) / 2.5)
    return 0.8 * sky.clamp(0, 1)
