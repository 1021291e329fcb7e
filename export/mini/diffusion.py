"""What denoising networks learn: to predict v (Salimans & Ho 2022) on a cosine schedule (Nichol & Dhariwal 2021)."""

import numpy as np
import torch
from torch import Tensor

from stt2v.engine.ddim import alpha_bars, ddim_table
from stt2v.engine.models.mini import MINI
from stt2v.engine.schedules import cosine_v

TIMESTEPS = 1000
STEPS = MINI.streaming.steps
SCHEDULE = cosine_v(STEPS)


def signal_and_noise(timestep: Tensor) -> tuple[Tensor, Tensor]:
    """timestep: [B] -> what latents and noise are multiplied by, [B, 1, 1, 1, 1] each."""
    bars = torch.from_numpy(alpha_bars(SCHEDULE).astype(np.float32)).to(timestep.device)[timestep]
    bars = bars[:, None, None, None, None]
    return bars.sqrt(), (1 - bars).sqrt()


def noised(latents: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """latents, noise: [B, F, C, h, w] -> noisy latents and the v to predict."""
    signal, share = signal_and_noise(timestep)
    return signal * latents + share * noise, signal * noise - share * latents


def table(steps: int = STEPS, strength: float = 1.0) -> Tensor:
    """The rows of a deterministic DDIM run: [steps run, 8]."""
    return torch.from_numpy(ddim_table(cosine_v(steps), steps, strength).astype(np.float32))
