"""Doubling the frames of a clip."""

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from telling import telling_of_the_second

from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.errors import StageError
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages import interpolate as module
from stt2v.engine.stages.interpolate import CUT, interpolate, scene_change

SIZE = (20, 36)
WAIT = 30  # seconds after which a test has failed


def mean_engine(batch: int = 1, value: float | None = None) -> FakeEngine:
    """The middle is the mean of the pair, or `value` everywhere."""
    tensors = [TensorSpec(name, "float32", (batch, 3, *SIZE)) for name in ("image0", "image1", "middle")]

    def mean(spec: EngineSpec, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        middle = (inputs["image0"] + inputs["image1"]) / 2
        return {"middle": middle if value is None else np.full_like(middle, value)}

    return FakeEngine(EngineSpec("interpolate", tuple(tensors[:2]), (tensors[2],)), mean)


def clip(frames: int) -> np.ndarray:
    """Frame i is of level 4 * i."""
    return np.broadcast_to(4 * np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, *SIZE, 3))


def levels(blocks: Iterator[np.ndarray]) -> list[int]:
    return [int(frame[0, 0, 0]) for block in blocks for frame in block]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 9, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_gives_exactly_the_frames_asked_for(num_frames: int, batch: int) -> None:
    blocks = np.array_split(clip((num_frames + 1) // 2), 3)
    expected = [min(2 * i, 4 * ((num_frames + 1) // 2 - 1)) for i in range(num_frames)]
    # v / 255 * 255 falls just short of some levels and is truncated
    assert levels(interpolate(blocks, mean_engine(batch), num_frames)) == pytest.approx(expected, abs=1)


def test_given_frames_pass_through_unchanged() -> None:
    video = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), np.uint8)
    out = np.concatenate(list(interpolate([video], mean_engine(), 7)))
    np.testing.assert_array_equal(out[::2], video)


def test_a_middle_is_looked_at_while_the_engine_has_the_next_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    later, waited, mean = threading.Event(), list[bool](), mean_engine()
    telling = FakeEngine(mean.spec, telling_of_the_second(lambda spec, inputs: mean.run(inputs), later))
    monkeypatch.setattr(module, "check_finite", lambda stage, frames: waited.append(later.wait(WAIT)))
    assert len(levels(interpolate([clip(4)], telling, 7))) == 7
    assert waited == [True] * 3


def test_takes_no_more_than_it_needs_and_streams() -> None:
    taken = itertools.count()

    def source() -> Iterator[np.ndarray]:
        for frame in clip(50):
            next(taken)
            yield frame[None]

    blocks = interpolate(source(), mean_engine(), 9)
    next(blocks)
    assert next(taken) == 1
    assert sum(map(len, blocks)) == 8
    assert next(taken) == 1 + 5


def test_too_few_frames() -> None:
    with pytest.raises(StageError, match="got 3 frames, 9 frames need 5"):
        list(interpolate([clip(3)], mean_engine(), 9))
    with pytest.raises(StageError, match="got 0 frames"):
        list(interpolate([], mean_engine(), 9))


def test_nan_is_refused() -> None:
    with pytest.raises(StageError, match="NaN"):
        list(interpolate([clip(2)], mean_engine(value=np.nan), 3))


def test_a_black_middle_is_refused_but_between_black_frames() -> None:
    black = np.zeros((2, *SIZE, 3), np.uint8)
    assert levels(interpolate([black], mean_engine(value=0.0), 3)) == [0, 0, 0]
    noise = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    with pytest.raises(StageError, match="stage interpolate made a frame of one single value"):
        list(interpolate([noise], mean_engine(value=0.0), 3))


def test_a_black_first_row_is_no_black_frame() -> None:
    """What is refused between other frames is refused between such."""
    frames = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    frames[:, 0] = 0
    with pytest.raises(StageError, match="single value"):
        list(interpolate([frames], mean_engine(value=0.0), 3))


def test_scenes_are_told_apart_by_means_of_blocks() -> None:
    """Blocks of 16 pixels, smaller at the far edges."""
    first, second = np.random.default_rng(0).integers(0, 256, (2, 1, *SIZE, 3), np.uint8)
    corners = [
        (rows, columns)
        for rows in (slice(0, 16), slice(16, 20))
        for columns in (slice(0, 16), slice(16, 32), slice(32, 36))
    ]
    means = [[frame[0][corner].mean((0, 1)) for corner in corners] for frame in (first, second)]
    expected = np.abs(np.subtract(*means)).mean()
    assert scene_change(first, second) == pytest.approx([expected], rel=1e-5)


def test_no_ghost_at_a_cut() -> None:
    video = np.stack([np.full((*SIZE, 3), level, np.uint8) for level in (10, 12, 200, 202)])
    assert levels(interpolate([video], mean_engine(batch=2), 7)) == [10, 11, 12, 12, 200, 201, 202]
    assert levels(interpolate([video], mean_engine(), 7, cut=None))[3] == 106


def test_moving_texture_is_no_cut() -> None:
    rows, columns = np.indices(SIZE)
    checker = np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    first, second = checker[None], checker[None, :, ::-1]
    assert np.abs(first.astype(int) - second).mean() > CUT > scene_change(first, second)[0]
