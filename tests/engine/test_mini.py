"""How `mini` begins, and how its enhancer goes over a clip, with engines that only note what they are given."""

import numpy as np
import pytest

from stt2v.engine.backends.base import Closing
from stt2v.engine.ddim import alpha_bars, ddim_table
from stt2v.engine.errors import PlanError, StageError
from stt2v.engine.models.mini import MiniConditions, MiniEnhancerSettings
from stt2v.engine.noise import Noise
from stt2v.engine.schedules import cosine_v
from stt2v.engine.solver import COEFFICIENTS
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages.denoise import ReplacingStep, Trajectory, denoise
from stt2v.engine.stages.mini import MiniEnhancer

SIDE = 4  # of a latent


class Noting(Closing):
    """An engine that keeps its inputs."""

    def __init__(self, answer, *shape):
        self.spec = EngineSpec("noting", (TensorSpec("x", "float32", shape),), ())
        self.seen = []
        self._answer = answer

    def run(self, inputs):
        self.seen.append(inputs)
        return self._answer(inputs)


@pytest.fixture
def engines():
    return {
        "anchor": Noting(lambda given: {"image_tokens": given["anchor"]}),
        "conditions": Noting(lambda given: {"context": given["text"]}),
        "enhance_conditions": Noting(lambda given: {"context": given["text"][1:]}),
        "enhance_vae_encode": Noting(
            lambda given: {"latents": given["image"][:, :1, ::8, ::8]}, 1, 3, 8 * SIDE, 8 * SIDE
        ),
        "enhance_vae_decode": Noting(_decoded, 4, 1, SIDE, SIDE),
        "enhance_4_step": Noting(lambda given: {"x_next": 0.5 * given["x"], "x0": given["x"]}),
    }


def _decoded(given):
    pixels = given["latents"].repeat(8, axis=2).repeat(8, axis=3).repeat(3, axis=1)
    return {"frames": np.clip(pixels, -1, 1).astype(np.float32)}


@pytest.mark.parametrize("image", [None, np.full((1, 3, 64, 64), 0.5, np.float32)])
def test_the_first_chunk_follows_a_still_of_the_picture_or_grey(engines, image):
    texts = [np.zeros((2, 16, 8), np.float32)]
    conditions = MiniConditions(engines, texts, image)
    conditions.first()
    (given,) = engines["conditions"].seen
    assert given["control_frames"].shape == (8, 3, 64, 64)
    assert (given["control_frames"] == (0 if image is None else 0.5)).all()
    assert (given["image_tokens"] == given["control_frames"][:1]).all()
    first = np.full((1, 3, 64, 64), -0.5, np.float32)
    conditions.streaming(1, np.zeros((8, 3, 64, 64), np.float32), first)
    assert (engines["conditions"].seen[1]["image_tokens"] == first).all()


def test_known_frames_come_out_as_they_are_and_carry_their_noise_until_then():
    table = ddim_table(cosine_v(5), 5)
    start = Noise(1).normal("latents", 0, 0, (4, 2, 3, 3))
    known = Noise(2).normal("latents", 0, 0, (2, 2, 3, 3))
    seen = []

    def step(x, coefficients, guidance, conditions, updates):
        seen.append(x)
        row = dict(zip(COEFFICIENTS, coefficients, strict=True))
        x0 = row["c_skip"] * x + row["c_out"] * np.tanh(x)
        return row["k_x"] * x + row["k_x0"] * x0, x0

    def made(step):
        run = Trajectory(table, np.ones(4, np.float32), "latents", 1)
        return denoise(step, start, {}, run, Noise(3), lambda index, timestep, latents: latents)

    plain, replaced = made(step), made(ReplacingStep(step, known))
    np.testing.assert_allclose(replaced[:2], known, atol=1e-6)
    assert (replaced[2:] == plain[2:]).all()  # this network looks at each frame by itself
    (first, share), (signal, noise) = (_signal_and_noise(table[step, 1]) for step in (0, 3))
    carried = (start[:2] - first * known) / share
    np.testing.assert_allclose(seen[-2][:2], signal * known + noise * carried, atol=1e-5)


def _signal_and_noise(timestep):
    alpha = alpha_bars(cosine_v(5))[int(timestep)]
    return np.sqrt(alpha), np.sqrt(1 - alpha)


def test_every_frame_is_enhanced_once_and_from_any_on(engines):
    clip = np.random.default_rng(0).integers(0, 255, (10, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    text = np.zeros((2, 16, 8), np.float32)

    def made(first=0, end=None):
        settings = MiniEnhancerSettings(window=4, overlap=2, steps=8)
        enhancer = MiniEnhancer(engines, text, Noise(3), settings=settings)
        assert enhancer.window_steps(len(clip)) == 4 * 4
        return np.stack(list(enhancer.enhance(clip, clip[0], first, end)))

    frames = made()
    assert frames.shape == (10, 8 * SIDE, 8 * SIDE, 3)
    assert (made(first=7) == frames[7:]).all()
    assert (made(first=2, end=6) == frames[2:6]).all()
    assert engines["enhance_4_step"].seen[0]["context"].shape == (1, 16, 8)
    with pytest.raises(PlanError, match="clip has 3 frames"):
        MiniEnhancer(engines, text, Noise(3)).enhance(clip[:3], clip[0])


def test_a_bad_step_ends_the_run_where_it_is(engines):
    clip = np.zeros((4, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    engines["enhance_4_step"] = Noting(lambda given: {"x_next": np.nan * given["x"], "x0": given["x"]})
    settings = MiniEnhancerSettings(window=4, overlap=2, steps=8)
    enhancer = MiniEnhancer(engines, np.zeros((2, 16, 8), np.float32), Noise(3), settings=settings)
    with pytest.raises(StageError, match="enhance"):
        next(enhancer.enhance(clip, clip[0]))
    assert len(engines["enhance_4_step"].seen) == 1
