"""The enhancer's passes and its stage, on an engine set whose engines do cheap arithmetic."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from telling import telling_of_the_second

from stt2v.engine.backends.base import Array, Engine, Frames, Value, Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.blend import draw_offsets
from stt2v.engine.errors import PlanError, StageError
from stt2v.engine.media.pictures import resized, rounded_picture
from stt2v.engine.models.i2vgen_xl import EnhancerSettings, key_lengths, plan_passes
from stt2v.engine.noise import Noise
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages import enhancer as module
from stt2v.engine.stages.i2vgen_xl import I2VGenXL
from stt2v.engine.stages.keeper import InMemory
from stt2v.engine.stages.windows import BlendedClip, Pair, State

SETTINGS = EnhancerSettings(window=8, overlap=3, key_lengths=key_lengths(8), steps=4)
WIDTH, HEIGHT = 32, 16
WAIT = 30  # seconds after which a test has failed
LATENT = (4, HEIGHT // 8, WIDTH // 8)


def spec(name: str, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]) -> EngineSpec:
    def tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(key, "float32", shape) for key, shape in shapes.items())

    return EngineSpec(name, tensors(inputs), tensors(outputs))


def engines(*windows: int) -> dict[str, Engine]:
    one = {"latents": (1, *LATENT)}
    pixels = (1, 3, HEIGHT, WIDTH)
    specs = [
        spec("enhance_image_encoder", {"image": (1, 3, 8, 8)}, {"image_embedding": (1, 6)}),
        spec("enhance_vae_encode", {"image": pixels, "noise": (1, *LATENT)}, one),
        spec("enhance_vae_decode", one, {"frames": pixels}),
    ]
    for window in windows:
        clip = (window, *LATENT)
        told = {"context": (2, 9, 6), "fps_embedding": (1, 8), "image_maps": (1, *clip)}
        given = {"text": (2, 4, 6), "image_embedding": (2, 1, 6), "image_latents": (1, *clip), "fps": (1,)}
        inputs = {"x": clip, "guidance": (window,), "coefficients": (8,), **told}
        specs.append(spec(f"enhance_{window}_conditions", given, told))
        specs.append(spec(f"enhance_{window}_step", inputs, {"x_next": clip, "x0": clip}))
    return {each.name: FakeEngine(each, waves) for each in specs}


def waves(border: EngineSpec, inputs: HostArrays) -> HostArrays:
    """Outputs that depend on every input and never saturate, whatever the size of timesteps and guidance."""
    outputs = {}
    for tensor in border.outputs:
        total = sum(np.resize(array, tensor.shape) / number for number, array in enumerate(inputs.values(), start=1))
        outputs[tensor.name] = np.sin(total, dtype=np.float32)
    return outputs


def enhancer(seed: int = 0, settings: EnhancerSettings = SETTINGS) -> I2VGenXL:
    lengths = {settings.window, *settings.key_lengths}
    return I2VGenXL(engines(*lengths), np.zeros((2, 4, 6), np.float32), Noise(seed), settings=settings)


def clip(frames: int) -> Frames:
    return np.random.default_rng(1).integers(0, 256, (frames, 12, 20, 3), np.uint8)


@given(st.integers(38, 3000))
def test_passes_cover_any_clip(frames: int) -> None:
    *keys, whole = plan_passes(frames, EnhancerSettings())
    assert (whole.frames, whole.kept) == (tuple(range(frames)), frames)
    for before, after in zip(keys, [*keys[1:], whole], strict=True):
        assert before.kept == len(after.starts)
        assert before.frames[: before.kept] == tuple(after.frames[start] for start in after.starts)
        assert before.starts[-1] + before.window == len(before.frames)
    assert len(keys[0].starts) == 1
    assert keys[0].window in (8, 16, 38)


def test_short_clips_of_key_frames_are_padded_with_the_last() -> None:
    keys, whole = plan_passes(100, EnhancerSettings())
    assert whole.starts == (0, 26, 52, 62)
    assert keys.frames == (0, 26, 52, 62, 62, 62, 62, 62)
    assert (keys.kept, keys.window) == (4, 8)


def test_more_key_frames_than_a_window_are_worked_on_in_windows() -> None:
    first, second, whole = plan_passes(2500, EnhancerSettings())
    assert (len(whole.starts), second.window, second.starts) == (96, 38, (0, 26, 52, 58))
    assert first.frames[:4] == tuple(whole.starts[start] for start in second.starts)


def test_key_frames_of_nearly_all_frames_are_refused_pass_after_pass() -> None:
    with pytest.raises(PlanError, match="take more than 20 passes over key frames; lower the overlap"):
        plan_passes(1000, EnhancerSettings(window=3, overlap=2, key_lengths=(3,)))
    assert len(plan_passes(1_000_000, EnhancerSettings(window=3, overlap=1, key_lengths=(3,)))) == 19


@pytest.mark.parametrize(("frames", "window", "overlap"), [(7, 8, 3), (20, 8, 8), (20, 1, 0)])
def test_clips_and_windows_that_do_not_fit_are_refused_at_once(frames: int, window: int, overlap: int) -> None:
    with pytest.raises(PlanError):
        enhancer(settings=EnhancerSettings(window, overlap, (window,))).enhance(clip(frames), clip(1)[0])


@pytest.mark.parametrize("frames", [8, 9, 13, 30, 60])
def test_as_many_frames_come_out(frames: int) -> None:
    result = list(enhancer().enhance(clip(frames), clip(1)[0]))
    assert {frame.shape for frame in result} == {(HEIGHT, WIDTH, 3)}
    assert {frame.dtype for frame in result} == {np.dtype(np.uint8)}
    assert len(result) == frames


def test_the_same_seed_gives_the_same_frames_and_another_seed_others() -> None:
    first, again, other = (np.stack(list(enhancer(seed).enhance(clip(13), clip(1)[0]))) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_picture_and_prompt_reach_the_frames() -> None:
    first = np.stack(list(enhancer().enhance(clip(13), clip(1)[0])))
    other_picture = np.stack(list(enhancer().enhance(clip(13), 255 - clip(1)[0])))
    told = I2VGenXL(enhancer().engines, np.ones((2, 4, 6), np.float32), Noise(0), settings=SETTINGS)
    assert (first != other_picture).any()
    assert (first != np.stack(list(told.enhance(clip(13), clip(1)[0])))).any()


def test_steps_are_told() -> None:
    told: list[tuple[int, int, int]] = []
    watched = I2VGenXL(
        enhancer().engines, np.zeros((2, 4, 6)), Noise(0), settings=SETTINGS, on_step=lambda *n: told.append(n)
    )
    list(watched.enhance(clip(13), clip(1)[0]))
    assert told == [(number, step, windows) for number, windows in ((0, 1), (1, 2)) for step in range(3)]
    assert SETTINGS.run_steps == 3


def test_places_of_frames_follow_the_picture() -> None:
    maps = enhancer().image_latents(clip(1)[0], 5, "stage", 0)
    assert maps.shape == (1, 5, *LATENT)
    np.testing.assert_allclose(maps[0, 1:, 0, 0, 0], [0.25, 0.5, 0.75, 1.0])
    assert len(np.unique(maps[0, 1:], axis=0)) == 4


def test_a_single_key_frame_has_no_places() -> None:
    assert enhancer().image_latents(clip(1)[0], 1, "stage", 0).shape == (1, 1, *LATENT)


def test_pictures_are_prepared_while_one_is_encoded() -> None:
    """And come out as if they were not."""
    asked, made = threading.Event(), enhancer()
    encoding, waited = made.engines["enhance_vae_encode"], list[bool]()
    frames = clip(5)

    class Slow(FakeEngine):
        def run(self, inputs: Values) -> dict[str, Value]:
            waited.append(asked.wait(WAIT))
            return super().run(inputs)

    def picture(index: int) -> Frames:
        if index == 3:
            asked.set()
        return resized(frames[index], (WIDTH, HEIGHT))

    slow = replace(made, engines={**made.engines, "enhance_vae_encode": Slow(encoding.spec, waves)})
    latents = [*slow.encoded(picture, range(5), "stage")]
    assert waited == [True] * 5
    np.testing.assert_array_equal(latents, [made.encode(picture(index), "stage", index) for index in range(5)])


def test_a_frame_is_looked_at_while_the_next_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    later, made = threading.Event(), enhancer()
    decoding, waited = made.engines["enhance_vae_decode"], list[bool]()

    def check(stage: str, frames: Array) -> Array:
        waited.append(later.wait(WAIT))
        return frames

    telling = FakeEngine(decoding.spec, telling_of_the_second(waves, later))
    watched = replace(made, engines={**made.engines, "enhance_vae_decode": telling})
    latents = Noise(0).normal("latents", 0, 0, (3, *LATENT))
    with monkeypatch.context() as patched:
        patched.setattr(module, "check_frames", check)
        pictures = [*watched.decoded(rounded_picture, latents, range(3))]
    assert waited == [True] * 3
    np.testing.assert_array_equal(pictures, [rounded_picture(made.decode(latents, index)) for index in range(3)])


def test_black_frames_are_not_let_through() -> None:
    made = enhancer()
    broken = {**made.engines, "enhance_vae_decode": _silent(made.engines["enhance_vae_decode"].spec)}
    with pytest.raises(StageError, match="enhance"):
        list(I2VGenXL(broken, made.text, Noise(0), settings=SETTINGS).enhance(clip(13), clip(1)[0]))


def _silent(border: EngineSpec) -> FakeEngine:
    return FakeEngine(border, lambda own, _: {t.name: np.zeros(t.shape, np.float32) for t in own.outputs})


class Adding:
    """Adds the step's number plus one; the clean estimate is the negative of what came."""

    def run_windows(self, step: int, windows: Iterable[Pair]) -> Iterator[Pair]:
        return ((latents + step + 1, -latents) for latents, _ in windows)


def test_windows_of_a_step_see_only_the_latents_before_it() -> None:
    starts = (0, 3, 6)
    clip = BlendedClip(5, starts, draw_offsets(Noise(0), "offset", 4, starts, 5), Adding())
    state = State(np.zeros((11, 1), np.float32), np.zeros((11, 1), np.float32))
    for step in range(4):
        before, state = state, State(np.full((11, 1), np.nan), np.full((11, 1), np.nan))
        clip.run(step, before, state)
    assert (state.latents == 1 + 2 + 3 + 4).all()
    assert (state.clean == -(1 + 2 + 3)).all()


class Stopping(InMemory):
    """Stops the enhancer, once, before a state is kept."""

    def __init__(self, number: int, steps: int) -> None:
        super().__init__()
        self.where: tuple[int, int] | None = (number, steps)

    def state(self, number, steps, shape):
        if (number, steps) == self.where:
            self.where = None
            raise KeyboardInterrupt
        return super().state(number, steps, shape)


@pytest.mark.parametrize("where", [(0, 0), (0, 2), (1, 0), (1, 1), (1, 3)])
def test_an_enhancer_goes_on_where_it_was_stopped(where: tuple[int, int]) -> None:
    made = replace(enhancer(), keeper=Stopping(*where))
    with pytest.raises(KeyboardInterrupt):
        list(made.enhance(clip(13), clip(1)[0]))
    first = list(made.enhance(clip(13), clip(1)[0]))
    assert np.array_equal(first, list(enhancer().enhance(clip(13), clip(1)[0])))
    assert np.array_equal(list(made.enhance(clip(13), clip(1)[0], 9)), first[9:])
    assert np.array_equal(list(made.enhance(clip(13), clip(1)[0], 9, 11)), first[9:11])
