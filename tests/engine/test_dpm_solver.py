import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from stt2v.engine.ddim import alpha_bars
from stt2v.engine.dpm_solver import CosineSchedule, dpm_table, multistep_table, solver_k_sigmas
from stt2v.engine.errors import UsageError
from stt2v.engine.schedules import MODELSCOPE
from stt2v.engine.solver import COEFFICIENTS

SCHEDULE = CosineSchedule()


def columns(table):
    return dict(zip(COEFFICIENTS, table.T, strict=True))


def test_schedule_ends_in_noise_alone():
    sigmas = SCHEDULE.sigmas()
    assert np.all(np.diff(sigmas) > 0)
    assert sigmas[-1] == 1
    assert SCHEDULE.alphas()[-1] == 0


def test_times_undo_k_sigmas():
    times = np.array([0.0, 0.25, 17.5, 998.0, 999.0])
    assert SCHEDULE.times(SCHEDULE.k_sigmas(times)) == pytest.approx(times)
    assert np.isinf(SCHEDULE.k_sigmas(times)[-1])


def test_first_step_has_no_previous_and_last_arrives_at_x0():
    table = columns(dpm_table(SCHEDULE, 6, 599))
    assert table["k_previous"][0] == 0
    assert np.all(table["k_previous"][1:-1] < 0)
    last = {name: values[-1] for name, values in table.items() if name.startswith("k_")}
    assert last == {"k_x": 0, "k_x0": 1, "k_noise": 0, "k_previous": 0}


def test_exact_estimates_keep_the_noise_level():
    """With x0 known exactly, what is left of the old noise and the fresh noise make up the next k-sigma."""
    k_sigmas = solver_k_sigmas(SCHEDULE, 9, 599)
    table = columns(dpm_table(SCHEDULE, 9, 599))
    assert table["k_x"] + table["k_x0"] + table["k_previous"] == pytest.approx(1)
    spread = np.square(table["k_x"] * k_sigmas[:-1]) + np.square(table["k_noise"])
    assert np.sqrt(spread) == pytest.approx(k_sigmas[1:])


def test_prediction_is_v():
    """x0 from a perfect v, whatever the noise."""
    table = columns(dpm_table(SCHEDULE, 5, 599))
    at = table["timestep"].astype(int)
    alpha, sigma = SCHEDULE.alphas()[at], SCHEDULE.sigmas()[at]
    x0, noise = 0.7, -1.3
    seen = alpha * x0 + sigma * noise
    v = alpha * noise - sigma * x0
    assert table["c_skip"] / table["c_in"] * seen + table["c_out"] * v == pytest.approx(x0)


@pytest.mark.parametrize(("steps", "start"), [(0, 599), (700, 599), (5, 0), (5, 999)])
def test_impossible_settings_are_refused(steps, start):
    with pytest.raises(UsageError):
        dpm_table(SCHEDULE, steps, start)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of diffusers
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_multistep_follows_diffusers(steps):
    """The reference's first chunk is sampled by diffusers' class, built from ModelScope's scheduler configuration."""
    scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(steps)
    table = multistep_table(alpha_bars(MODELSCOPE), steps)
    assert table[:, 1].tolist() == scheduler.timesteps.tolist()
    x = ours = np.random.default_rng(0).standard_normal((2, 3))
    previous = np.zeros_like(x)
    for row in table:
        c = dict(zip(COEFFICIENTS, row, strict=True))
        predicted = scheduler.step(torch.from_numpy(np.tanh(x)), int(c["timestep"]), torch.from_numpy(x))
        x = predicted.prev_sample.numpy()
        x0 = c["c_skip"] * ours + c["c_out"] * np.tanh(ours)
        ours, previous = c["k_x"] * ours + c["k_x0"] * x0 + c["k_previous"] * previous, x0
        np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-5)
