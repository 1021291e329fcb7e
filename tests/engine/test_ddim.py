"""DDIM's table beside diffusers' scheduler."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from stt2v.engine.ddim import Schedule, alpha_bars, ddim_table, noised, timesteps
from stt2v.engine.errors import UsageError

CONFIGS: dict[str, dict[str, Any]] = {
    "enhancer": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "steps_offset": 1,
        "rescale_betas_zero_snr": True,
    },
    "text to video": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "set_alpha_to_one": False,
    },
    "linear": {"beta_schedule": "linear"},
}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_step_equals_diffusers(config: dict[str, Any], eta: float) -> None:
    scheduler = DDIMScheduler(**config, clip_sample=False)
    schedule = Schedule.from_config(scheduler.config)
    scheduler.set_timesteps(10)
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4))
    table = ddim_table(schedule, 10, eta=eta)
    assert table[:, 1].tolist() == scheduler.timesteps.tolist()
    for t, row in zip(scheduler.timesteps, table, strict=True):
        predicted, noise = random.standard_normal((2, 2, 4))
        step = scheduler.step(
            torch.from_numpy(predicted), t, torch.from_numpy(x), eta=eta, variance_noise=torch.from_numpy(noise)
        )
        c_in, _, c_skip, c_out, k_x, k_x0, k_noise, k_previous = row
        x0 = c_skip * x + c_out * predicted
        following = k_x * x + k_x0 * x0 + k_noise * noise
        assert (c_in, k_previous) == (1.0, 0.0)
        np.testing.assert_allclose(x0, step.pred_original_sample, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(following, step.prev_sample, rtol=1e-4, atol=1e-4)
        x = following


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_start_equals_diffusers(config: dict[str, Any]) -> None:
    scheduler = DDIMScheduler(**config, clip_sample=False)
    clean, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    start = noised(Schedule.from_config(scheduler.config), 925, clean.numpy(), noise.numpy())
    expected = scheduler.add_noise(clean, noise, torch.tensor([925]))
    assert start.dtype == np.float32
    np.testing.assert_allclose(start, expected, rtol=1e-5, atol=1e-5)


def test_strength_leaves_the_last_steps() -> None:
    schedule = Schedule(steps_offset=1)
    assert timesteps(schedule, 30, 0.97)[[0, -1]].tolist() == [925, 1]
    assert len(timesteps(schedule, 30, 0.97)) == 29


def test_zero_terminal_snr_ends_without_signal() -> None:
    assert alpha_bars(Schedule(rescale_betas_zero_snr=True))[-1] == 0.0


@pytest.mark.parametrize(
    ("schedule", "steps", "strength", "message"),
    [
        (Schedule(), 0, 1.0, "steps is 0"),
        (Schedule(), 1001, 1.0, "expected 1 to 1000"),
        (Schedule(), 10, 0.05, "leaves a step to do"),
        (Schedule(), 10, 1.5, "share up to 1"),
        (Schedule(prediction_type="sample"), 10, 1.0, "prediction type is 'sample'"),
        (Schedule(rescale_betas_zero_snr=True, steps_offset=99), 10, 1.0, "prediction type is 'epsilon'"),
        (Schedule(beta_schedule="sigmoid"), 10, 1.0, "beta schedule is 'sigmoid'"),
    ],
)
def test_settings_that_cannot_be_used(schedule: Schedule, steps: int, strength: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ddim_table(schedule, steps, strength)


@pytest.mark.parametrize("config", [{"timestep_spacing": "trailing"}, {"clip_sample": True}, {"thresholding": True}])
def test_configurations_that_are_not_implemented(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="use DDIM as published"):
        Schedule.from_config(config)
