"""Noise, schedules, solvers and the denoising loop."""

import numpy as np
import pytest

from stt2v.engine.errors import UsageError
from stt2v.engine.noise import Noise
from stt2v.engine.schedules import SCHEDULES
from stt2v.engine.sigmas import align_your_steps, euler_table, initial_scale, karras


def test_noise_depends_on_every_part_of_its_name() -> None:
    def draw(seed: int, stage: str, chunk: int, step: int) -> np.ndarray:
        return Noise(seed).normal(stage, chunk, step, (64,))

    base = draw(33, "latents", 1, 2)
    assert np.array_equal(base, draw(33, "latents", 1, 2))
    for other in [(34, "latents", 1, 2), (33, "anchor", 1, 2), (33, "latents", 2, 2), (33, "latents", 1, 3)]:
        assert not np.array_equal(base, draw(*other))


def test_noise_does_not_depend_on_what_was_drawn_before() -> None:
    noise = Noise(7)
    noise.uniform("x", 0, 0, (1000,))
    assert np.array_equal(noise.normal("y", 0, 0, (5,)), Noise(7).normal("y", 0, 0, (5,)))


def test_noise_has_the_distribution_it_says() -> None:
    normal = Noise(1).normal("n", 0, 0, (100_000,))
    uniform = Noise(1).uniform("u", 0, 0, (100_000,))
    assert normal.dtype == uniform.dtype == np.float32
    assert abs(normal.mean()) < 0.02
    assert normal.std() == pytest.approx(1, abs=0.02)
    assert 0 <= uniform.min() < uniform.max() < 1
    assert {Noise(1).integers("i", 0, step, 2, 5) for step in range(50)} == {2, 3, 4}


def test_published_noise_stays_what_it_is() -> None:
    """Seeds are part of a video's identity: the same seed must give the same video after an upgrade."""
    assert Noise(33).normal("latents", 0, 0, (3,)).tolist() == pytest.approx(
        [0.0727709383, 1.2406238317, 1.5955120325], abs=1e-6
    )


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="seed"):
        Noise(seed)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_schedule_has_a_row_a_step(name: str, steps: int) -> None:
    schedule = SCHEDULES[name](steps)
    assert schedule.table.shape == (steps, 8)
    assert np.isfinite(schedule.table).all()


@pytest.mark.parametrize("name", ["karras", "align-your-steps"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_euler_ends_on_the_clean_estimate(name: str, steps: int) -> None:
    schedule = SCHEDULES[name](steps)
    assert schedule.table[-1, 4:].tolist() == [0, 1, 0, 0]
    assert schedule.initial_scale == pytest.approx(700, rel=1e-4)


@pytest.mark.parametrize("sigmas", [karras(25), align_your_steps(30)])
def test_euler_follows_the_exact_solution_of_one_point(sigmas: np.ndarray) -> None:
    """With data at a single point m the estimate is m and x moves on a line: x(sigma) = m + sigma * noise."""
    point, noise = 0.7, -1.3
    x = point + sigmas[0] * noise
    for row, sigma in zip(euler_table(sigmas), sigmas[1:], strict=True):
        x = row[4] * x + row[5] * point
        assert x == pytest.approx(point + sigma * noise, rel=1e-9, abs=1e-9)


def test_initial_scale_covers_the_data() -> None:
    assert initial_scale(np.array([3.0, 0.0])) == pytest.approx(np.sqrt(10))
