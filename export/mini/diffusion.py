"""What denoising networks learn: to predict v (Salimans & Ho 2022) on a cosine schedule (Nichol & Dhariwal 2021)."""

import numpy as np
import torch
from torch import Tensor

from stt2v.engine.ddim import Schedule, alpha_bars, ddim_table

TIMESTEPS = 1000
STEPS = 20  # the default; the offset lets its first step begin at pure noise
SCHEDULE = Schedule(
    prediction_type="v_prediction",
    beta_schedule="squaredcos_cap_v2",
    num_train_timesteps=TIMESTEPS,
    steps_offset=TIMESTEPS // STEPS - 1,
)


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
    schedule = Schedule(**{**vars(SCHEDULE), "steps_offset": TIMESTEPS // steps - 1})
    return torch.from_numpy(ddim_table(schedule, steps, strength).astype(np.float32))
