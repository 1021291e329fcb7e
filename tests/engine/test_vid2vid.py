"""vid2vid and what brings clips of any aspect to an enhancer and back, on engines that do cheap arithmetic."""

from collections.abc import Mapping

import numpy as np
import pytest

from stt2v.engine.backends.base import Engine, Frames
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.dpm_solver import CosineSchedule
from stt2v.engine.errors import PlanError, StageError, UsageError
from stt2v.engine.models.enhancers import ENHANCERS, choose_enhancer
from stt2v.engine.models.streaming_svd import STREAMING_SVD
from stt2v.engine.models.tiny import TINY
from stt2v.engine.models.vid2vid import ENHANCER, NEGATIVE_PROMPT, Vid2VidSettings, wording
from stt2v.engine.noise import Noise
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages.enhance import enhanced
from stt2v.engine.stages.vid2vid import Vid2Vid

SETTINGS = Vid2VidSettings(window=6, overlap=2, steps=3)
WIDTH, HEIGHT = 32, 16
LATENT = (4, HEIGHT // 8, WIDTH // 8)
CLIP = (SETTINGS.window, *LATENT)


def spec(name: str, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> EngineSpec:
    def tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(key, "float32", shape) for key, shape in shapes.items())

    return EngineSpec(name, tensors(inputs), tensors(outputs))


class Watched(FakeEngine):
    """Keeps what it was given."""

    def __init__(self, border: EngineSpec) -> None:
        super().__init__(border, waves)
        self.given: list[HostArrays] = []

    def run(self, inputs):
        self.given.append({name: np.array(value) for name, value in inputs.items()})  # the clip changes in place
        return super().run(inputs)


def waves(border: EngineSpec, inputs: HostArrays) -> HostArrays:
    """Outputs that depend on every input and never saturate."""
    outputs = {}
    for tensor in border.outputs:
        total = sum(np.resize(array, tensor.shape) / number for number, array in enumerate(inputs.values(), start=1))
        outputs[tensor.name] = np.sin(total, dtype=np.float32)
    return outputs


def engines() -> dict[str, Engine]:
    one, pixels, latents = {"latents": (1, *LATENT)}, (1, 3, HEIGHT, WIDTH), {"x_next": CLIP, "x0": CLIP}
    inputs = {"x": CLIP, "guidance": (6,), "coefficients": (8,), "noise": CLIP, "x0_previous": CLIP}
    specs = [
        spec("enhance_vae_encode", {"image": pixels, "noise": (1, *LATENT)}, one),
        spec("enhance_vae_decode", one, {"frames": pixels}),
        spec("enhance_conditions", {"text": (2, 4, 6)}, {"context": (2, 4, 9)}),
        spec("enhance_6_step", {**inputs, "context": (2, 4, 9)}, latents),
    ]
    return {each.name: Watched(each) for each in specs}


def enhancer(seed: int = 0, text: float = 0.0) -> Vid2Vid:
    return Vid2Vid(engines(), np.full((2, 4, 6), text, np.float32), Noise(seed), settings=SETTINGS)


def clip(frames: int, width: int = 20, height: int = 10) -> Frames:
    return np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), np.uint8)


def refined(made: Vid2Vid, frames: Frames) -> Frames:
    return np.stack(list(made.enhance(frames, frames[0])))


@pytest.mark.parametrize("frames", [6, 7, 10, 17])
def test_as_many_frames_come_out(frames: int) -> None:
    result = refined(enhancer(), clip(frames))
    assert (result.shape, result.dtype) == ((frames, HEIGHT, WIDTH, 3), np.uint8)


def test_seed_text_and_clip_reach_the_frames() -> None:
    base = refined(enhancer(), clip(10))
    np.testing.assert_array_equal(refined(enhancer(), clip(10)), base)
    for other in (
        refined(enhancer(1), clip(10)),
        refined(enhancer(text=1), clip(10)),
        refined(enhancer(), 255 - clip(10)),
    ):
        assert (other != base).any()


def test_neighbouring_windows_share_noise_and_estimate_where_they_overlap() -> None:
    made = enhancer()
    refined(made, clip(10))  # windows at 0 and 4
    step = made.engines["enhance_6_step"]
    assert isinstance(step, Watched)
    for first, second in zip(step.given[::2], step.given[1::2], strict=True):
        for name in ("x", "noise", "x0_previous"):
            np.testing.assert_array_equal(np.asarray(first[name])[4:], np.asarray(second[name])[:2])
    assert np.asarray(step.given[0]["noise"]).std() == pytest.approx(1, abs=0.2)
    assert not np.asarray(step.given[-1]["noise"]).any()  # the last step arrives


def test_sampling_begins_at_the_noise_of_timestep_599() -> None:
    """As in the reference: unit-variance latents, scaled as if they were clean."""
    made = enhancer()
    refined(made, clip(10))
    encode, step = made.engines["enhance_vae_encode"], made.engines["enhance_6_step"]
    assert isinstance(encode, Watched)
    assert isinstance(step, Watched)
    latent = encode.run(encode.given[0])["latents"]
    schedule = CosineSchedule()
    alpha, sigma = schedule.alphas()[599], schedule.sigmas()[599]
    assert sigma == pytest.approx(0.97236, abs=1e-5)
    noise = Noise(0).normal("enhance_start", 0, 0, LATENT)
    expected = (alpha * np.asarray(latent)[0] + sigma * noise) * sigma / alpha
    np.testing.assert_allclose(np.asarray(step.given[0]["x"])[0], expected, rtol=1e-4)


def test_steps_are_told() -> None:
    told: list[tuple[int, int, int]] = []
    made = Vid2Vid(engines(), np.zeros((2, 4, 6)), Noise(0), on_step=lambda *n: told.append(n), settings=SETTINGS)
    refined(made, clip(10))
    assert told == [(0, step, 2) for step in range(3)]
    assert made.window_steps(10) == 6


def test_a_clip_shorter_than_a_window_is_refused_at_once() -> None:
    with pytest.raises(PlanError, match="window"):
        enhancer().enhance(clip(5), clip(1)[0])


def test_broken_frames_are_not_let_through() -> None:
    made = enhancer()
    silent = FakeEngine(
        made.engines["enhance_vae_decode"].spec,
        lambda own, _: {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in own.outputs},
    )
    broken = Vid2Vid({**made.engines, "enhance_vae_decode": silent}, made.text, Noise(0), settings=SETTINGS)
    with pytest.raises(StageError, match="enhance"):
        refined(broken, clip(6))


class Seen:
    """Shows the boards that it was given."""

    def window_steps(self, frames: int) -> int:
        return frames

    def enhance(self, frames, picture, first=0, end=None):
        return (frames[index] for index in range(len(frames)))


@pytest.mark.parametrize(("size", "cut"), [((16, 16), (48, 48)), ((9, 16), (26, 48)), ((80, 45), (80, 44))])
def test_content_is_put_on_the_canvas_and_cut_out_with_even_sides(size: tuple[int, int], cut: tuple[int, int]) -> None:
    frames = np.full((2, size[1], size[0], 3), 200, np.uint8)
    for frame in enhanced(Seen(), frames, frames[0], (80, 48)):
        assert frame.shape == (cut[1], cut[0], 3)
        assert (frame == 200).all()


def test_clips_of_the_canvas_aspect_are_left_for_the_enhancer_to_resize() -> None:
    frames = clip(2, 40, 24)
    boards: list[Frames] = []

    class Keeping(Seen):
        def enhance(self, frames, picture, first=0, end=None):
            boards.extend([frames[0], picture])
            return iter([np.zeros((48, 80, 3), np.uint8)])

    list(enhanced(Keeping(), frames, frames[1], (80, 48)))
    np.testing.assert_array_equal(boards, frames)


def test_choice_of_an_enhancer() -> None:
    assert choose_enhancer(STREAMING_SVD, None) == choose_enhancer(STREAMING_SVD, "i2vgen-xl") == ENHANCERS["i2vgen-xl"]
    assert choose_enhancer(STREAMING_SVD, "vid2vid") == ENHANCERS["vid2vid"]
    assert choose_enhancer(STREAMING_SVD, "none") is None
    assert TINY.enhancing
    other = choose_enhancer(TINY, "vid2vid")
    assert other
    assert (other.name, other.width, other.window) == ("vid2vid", TINY.enhancing.width, ENHANCER.window)
    with pytest.raises(UsageError, match="i2vgen-xl, vid2vid, none"):
        choose_enhancer(STREAMING_SVD, "esrgan")


def test_wording_is_the_references() -> None:
    assert wording("a cat", None) == ("a cat, ", NEGATIVE_PROMPT)
    assert wording("a cat", "") == ("a cat, ", "")
