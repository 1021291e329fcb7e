"""The autoregressive loop on engines made of plain arithmetic."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stt2v.engine.backends.base import Value, Values
from stt2v.engine.errors import StageError
from stt2v.engine.loop import Loop
from stt2v.engine.models.conditions import Start, open_conditions
from stt2v.engine.models.model import Denoising, Model
from stt2v.engine.noise import Noise
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages.decode import decode_groups
from stt2v.engine.stages.denoise import FusedStep, HalvedStep, guided_step

MODEL = Model(
    name="toy",
    family="streaming-svd",
    summary="",
    width=16,
    height=8,
    chunk=6,
    conditional=2,
    anchor=3,
    first=Denoising("karras", 3, (1.0, 3.0)),
    streaming=Denoising("align-your-steps", 3, (1.5, 3.0)),
    decode_group=4,
    num_frames=6,
    fps=8.0,
)
IMAGE = np.linspace(-1, 1, 3 * 8 * 16, dtype=np.float32).reshape(1, 3, 8, 16)


class Arithmetic:
    """An engine that is a function; remembers what it was given."""

    def __init__(self, function: Callable[..., dict[str, Value]], **shapes: tuple[int, ...]) -> None:
        self.spec = EngineSpec("toy", tuple(TensorSpec(n, "float32", s) for n, s in shapes.items()), ())
        self.function = function
        self.calls: list[dict[str, Value]] = []

    def run(self, inputs: Values) -> dict[str, Value]:
        self.calls.append(dict(inputs))
        return self.function(**inputs)

    def close(self) -> None:
        pass


def predict(x: np.ndarray, coefficients: np.ndarray, image_latent: np.ndarray, context: np.ndarray) -> np.ndarray:
    return np.tanh(coefficients[0] * x + image_latent + context.mean() + coefficients[1])


def step(x: np.ndarray, guidance: np.ndarray, coefficients: np.ndarray, **pair: np.ndarray) -> dict[str, np.ndarray]:
    uncond, cond = (predict(x, coefficients, pair["image_latent"][i], pair["context"][i]) for i in (0, 1))
    return update(x, uncond, cond, guidance, coefficients)


def update(
    x: np.ndarray, uncond: np.ndarray, cond: np.ndarray, guidance: np.ndarray, coefficients: np.ndarray
) -> dict[str, np.ndarray]:
    guided = uncond + guidance[:, None, None, None] * (cond - uncond)
    x0 = coefficients[2] * x + coefficients[3] * guided
    return {"x_next": coefficients[4] * x + coefficients[5] * x0, "x0": x0}


def half(x: np.ndarray, coefficients: np.ndarray, image_latent: np.ndarray, context: np.ndarray) -> dict[str, Value]:
    return {"prediction": predict(x, coefficients, image_latent, context)}


def decoder(latents: np.ndarray) -> dict[str, np.ndarray]:
    frames = np.repeat(np.repeat(np.tanh(latents[:, :3]), 8, axis=2), 8, axis=3)
    return {"frames": frames.astype(np.float32)}


def condition(embedding: np.ndarray, vector: np.ndarray, control_frames: np.ndarray | None = None) -> dict[str, Value]:
    extra = 0.0 if control_frames is None else control_frames.mean()
    return {"context": np.stack([np.zeros(4), np.full(4, embedding.mean() + extra)]).astype(np.float32)}


def engines() -> dict[str, Arithmetic]:
    return {
        "image_encoder": Arithmetic(lambda image: {"embedding": image.mean(axis=(2, 3))[:, None]}),
        "vae_encode": Arithmetic(lambda image: {"latent": np.tile(image[:, :1, ::8, ::8], (1, 4, 1, 1))}),
        "first_conditions": Arithmetic(condition),
        "conditions": Arithmetic(condition),
        "first_step": Arithmetic(step),
        "step": Arithmetic(step),
        "half": Arithmetic(half, image_latent=(1, 4, 1, 2), context=(1, 4)),
        "update": Arithmetic(update),
        "vae_decode_4": Arithmetic(decoder),
        "vae_decode_2": Arithmetic(decoder),
    }


def loop(toy: dict[str, Arithmetic], seed: int = 33) -> Loop:
    noise = Noise(seed)
    conditions = open_conditions(MODEL, toy, Start(IMAGE), noise)
    return Loop(MODEL, toy, conditions, noise, MODEL.streaming, lambda chunk, index, timestep, latents: latents)


def test_chunks_join() -> None:
    toy = engines()
    chunks = list(loop(toy).chunks(3))
    assert [len(chunk) for chunk in chunks] == [6, 4, 4]
    controls = [call["control_frames"] for call in toy["conditions"].calls]
    assert np.array_equal(controls[0], chunks[0][-2:])
    assert np.array_equal(controls[1], chunks[1][-2:])


def test_anchor_is_the_same_frame_for_every_chunk() -> None:
    toy = engines()
    first, *_ = list(loop(toy).chunks(3))
    encoded = [call["image"] for call in toy["vae_encode"].calls[1:]]
    for image in encoded:
        assert (image - first[3]).min() >= 0
        assert (image - first[3]).max() <= 0.02 + 1e-6
    assert not np.array_equal(encoded[0], encoded[1])  # each chunk has its own augmentation noise


def test_anchor_is_embedded_once() -> None:
    toy = engines()
    list(loop(toy).chunks(4))
    assert len(toy["image_encoder"].calls) == 2


def test_same_seed_same_video_other_seed_other_video() -> None:
    videos = [np.concatenate(list(loop(engines(), seed).chunks(3))) for seed in (33, 33, 34)]
    assert np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])


def test_halves_give_what_the_fused_step_gives() -> None:
    toy = engines()
    fused = np.concatenate(list(loop(toy).chunks(3)))
    del toy["step"]
    assert isinstance(guided_step(toy, "first_step").step, FusedStep)
    assert isinstance(guided_step(toy).step, HalvedStep)
    assert np.array_equal(np.concatenate(list(loop(toy).chunks(3))), fused)


def test_first_chunk_has_8_bits_where_the_model_says_so() -> None:
    smooth = loop(engines())
    pictures = Loop(**{**vars(smooth), "model": replace(MODEL, first_through_8_bits=True)})
    off = [
        np.abs(levels - np.rint(levels)).max()
        for levels in ((made.first_chunk() + 1) * 127.5 for made in (smooth, pictures))
    ]
    assert off[0] > 0.01
    assert off[1] < 1e-4


def test_steps_may_be_watched_and_changed() -> None:
    seen = []

    def on_step(chunk: int, index: int, timestep: float, latents: Value) -> Value:
        seen.append((chunk, index))
        return np.zeros_like(latents) if (chunk, index) == (0, 2) else latents

    base = loop(engines())
    changed = Loop(base.model, base.engines, base.conditions, base.noise, base.streaming, on_step)
    with pytest.raises(StageError, match="one single value"):
        list(changed.chunks(2))
    assert seen == [(0, 0), (0, 1), (0, 2)]


def test_nan_is_never_shown() -> None:
    toy = engines()
    toy["vae_decode_2"] = Arithmetic(lambda latents: {"frames": decoder(latents)["frames"] * np.nan})
    with pytest.raises(StageError, match="decode"):
        next(loop(toy).chunks(1))


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (np.inf, "infinite"), (0.0, "one single value")])
def test_a_bad_step_ends_the_run_there(value: float, words: str) -> None:
    toy = engines()
    good, calls = toy["step"], []

    def step(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(len(calls))
        outputs = good.run(inputs)
        return outputs if len(calls) < 3 else {**outputs, "x_next": np.full_like(outputs["x_next"], value)}

    toy["step"] = Arithmetic(step)
    chunks = loop(toy).chunks(3)
    next(chunks)
    with pytest.raises(StageError, match=f"stage denoise made .*{words}.*engines verify"):
        next(chunks)
    assert calls == [0, 1, 2]


def test_one_black_frame_is_enough() -> None:
    toy = engines()

    def decoded(latents: np.ndarray) -> dict[str, np.ndarray]:
        frames = decoder(latents)["frames"].copy()
        frames[0] = -1.0
        return {"frames": frames}

    toy["vae_decode_2"] = Arithmetic(decoded)
    with pytest.raises(StageError, match="stage decode made a frame of one single value"):
        next(loop(toy).chunks(1))


def test_first_chunk_may_come_from_elsewhere() -> None:
    toy = engines()
    given = np.linspace(-1, 1, 6 * 3 * 8 * 16, dtype=np.float32).reshape(6, 3, 8, 16)
    first, second = Loop(**{**vars(loop(toy)), "given": given}).chunks(2)
    assert np.array_equal(first, given)
    assert len(second) == 4
    assert np.array_equal(toy["conditions"].calls[0]["control_frames"], given[-2:])
    assert not toy["first_step"].calls


def test_another_attempt_at_a_chunk_has_other_noise() -> None:
    made: dict[tuple[int, int], np.ndarray] = {}

    def settle(chunk: int, before: np.ndarray, make: Callable[[int], np.ndarray]) -> np.ndarray:
        made.update({(chunk, attempt): make(attempt) for attempt in (0, 1, 2)})
        assert np.array_equal(before, made[chunk - 1, 1][-1] if chunk > 1 else first[-1])
        return made[chunk, 1]

    plain = loop(engines())
    chunks = Loop(**{**vars(loop(engines())), "settle": settle}).chunks(3)
    first = next(chunks)
    assert np.array_equal(next(chunks), made[1, 1])
    assert np.array_equal(next(chunks), made[2, 1])
    assert np.array_equal(list(plain.chunks(2))[1], made[1, 0])
    assert not any(np.array_equal(made[1, a], made[1, b]) for a, b in ((0, 1), (1, 2), (0, 2)))


def test_decode_groups() -> None:
    assert decode_groups(25, 8) == [8, 8, 8, 1]
    assert decode_groups(16, 8) == [8, 8]
    assert decode_groups(3, 8) == [3]
