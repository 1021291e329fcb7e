"""DDIM (Song et al. 2021, "Denoising diffusion implicit models") as a coefficient table, and its noise schedules."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Array
from stt2v.engine.errors import UsageError
from stt2v.engine.solver import Table

LARGEST_BETA = 0.999  # cap of the cosine schedule (Nichol & Dhariwal 2021)

FIXED_FIELDS = {"timestep_spacing": "leading", "clip_sample": False, "thresholding": False, "trained_betas": None}
"""Fields of a scheduler's configuration for which only one value is implemented."""

Alphas = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """How a network was trained to see noise, in the words of a diffusers scheduler configuration.

    Timesteps are spaced "leading". `set_alpha_to_one` says what the last step arrives at: the clean latent, or the
    first training timestep.
    """

    prediction_type: str = "epsilon"
    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The schedule of a checkpoint's `scheduler_config.json`.

        Raises: UsageError for a setting that is not implemented.
        """
        for name, value in FIXED_FIELDS.items():
            if config.get(name, value) != value:
                raise UsageError(
                    f"scheduler has {name} {config[name]!r}, implemented is {value!r}; use DDIM as published"
                )
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})


def alpha_bars(schedule: Schedule) -> Alphas:
    """Products of (1 - beta) up to every training timestep: [num_train_timesteps], decreasing.

    With `rescale_betas_zero_snr` the last one is 0 (Lin et al. 2023, algorithm 1).
    """
    products = np.cumprod(1.0 - _betas(schedule), dtype=np.float64)
    if not schedule.rescale_betas_zero_snr:
        return products
    roots = np.sqrt(products)
    stretched: Alphas = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return stretched**2


def _betas(schedule: Schedule) -> Alphas:
    steps, start, end = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        return np.linspace(start, end, steps)
    if schedule.beta_schedule == "scaled_linear":
        return np.square(np.linspace(np.sqrt(start), np.sqrt(end), steps))
    if schedule.beta_schedule == "squaredcos_cap_v2":
        curve = np.square(np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2))
        return np.minimum(1.0 - curve[1:] / curve[:-1], LARGEST_BETA)
    raise UsageError(
        f"beta schedule is {schedule.beta_schedule!r}, expected 'linear', 'scaled_linear' or 'squaredcos_cap_v2'"
    )


def timesteps(schedule: Schedule, steps: int, strength: float = 1.0) -> npt.NDArray[np.int64]:
    """The last `strength` share of `steps` timesteps, decreasing.

    Raises: UsageError when nothing would be left to do, or more steps are asked for than were trained; with
    `steps_offset`, as many as were trained would begin beyond the last timestep.
    """
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise UsageError(f"steps is {steps}, expected 1 to {schedule.num_train_timesteps}")
    run = int(steps * strength)
    if not 1 <= run <= steps:
        raise UsageError(f"strength is {strength} of {steps} steps, expected a share up to 1 that leaves a step to do")
    stride = schedule.num_train_timesteps // steps
    times = np.arange(run, dtype=np.int64)[::-1] * stride + schedule.steps_offset
    if times[0] >= schedule.num_train_timesteps:
        raise UsageError(
            f"steps is {steps}, the first would be at timestep {times[0]} of {schedule.num_train_timesteps}; take fewer"
        )
    return times


def ddim_table(schedule: Schedule, steps: int, strength: float = 1.0, eta: float = 0.0) -> Table:
    """All steps as coefficients: [steps run, 8]. `eta` 0 is deterministic, 1 is ancestral sampling (equation 16).

    Raises: UsageError for a prediction type or setting that is not implemented.
    """
    times = timesteps(schedule, steps, strength)
    bars = alpha_bars(schedule)
    alpha = bars[times]
    before = times - schedule.num_train_timesteps // steps
    alpha_before = np.where(before >= 0, bars[before], 1.0 if schedule.set_alpha_to_one else bars[0])
    variance = (1.0 - alpha_before) / (1.0 - alpha) * (1.0 - alpha / alpha_before)
    c_skip, c_out = _prediction(schedule, alpha)
    # The predicted noise is (x - sqrt(alpha) x0) / sqrt(1 - alpha), whatever the network predicts.
    k_x = np.sqrt((1.0 - alpha_before - eta**2 * variance) / (1.0 - alpha))
    k_x0 = np.sqrt(alpha_before) - k_x * np.sqrt(alpha)
    one, nothing = np.ones_like(alpha), np.zeros_like(alpha)
    return np.stack([one, times, c_skip, c_out, k_x, k_x0, eta * np.sqrt(variance), nothing], axis=1)


def _prediction(schedule: Schedule, alpha: Alphas) -> tuple[Alphas, Alphas]:
    """c_skip and c_out: how x0 follows from x and what the network predicts."""
    if schedule.prediction_type == "v_prediction":  # Salimans & Ho 2022, appendix D
        return np.sqrt(alpha), -np.sqrt(1.0 - alpha)
    if schedule.prediction_type == "epsilon" and alpha.min() > 0:
        return 1.0 / np.sqrt(alpha), -np.sqrt(1.0 / alpha - 1.0)
    raise UsageError(
        f"prediction type is {schedule.prediction_type!r}, expected 'v_prediction', or 'epsilon' where noise never "
        "replaces the signal wholly"
    )


def noised(schedule: Schedule, timestep: int, clean: Array, noise: Array) -> Array:
    """Where SDEdit (Meng et al. 2022) begins: `clean` with the share of unit noise that belongs to `timestep`."""
    alpha = alpha_bars(schedule)[timestep]
    return np.float32(np.sqrt(alpha)) * clean + np.float32(np.sqrt(1.0 - alpha)) * noise
