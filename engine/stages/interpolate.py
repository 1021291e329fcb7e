"""Interpolation: twice the frames, pair by pair, however long the clip."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.belt import ahead
from stt2v.engine.errors import StageError
from stt2v.engine.parallel.group import Call, for_calls, run_all
from stt2v.engine.plan import base_frames
from stt2v.engine.stages.check import check_finite, check_frames
from stt2v.engine.stages.decode import pictures_of

CUT = 30.0
"""Mean difference of two neighbouring frames, in 8-bit levels of their thumbnails, from which they are two scenes."""

THUMBNAIL = 16  # pixels of a frame that make one of its thumbnail, so that moving texture does not count as a cut


def interpolate(frames: Iterable[Frames], engine: Engine, num_frames: int, cut: float | None = CUT) -> Iterator[Frames]:
    """Blocks of frames -> blocks of twice the clip, `num_frames` frames in all.

    frames: blocks [n, H, W, 3], uint8, RGB, of any n; frames over half of `num_frames` are left alone.
    engine: image0, image1 [B, 3, H, W] in [0, 1] -> middle; B pairs are done at once.
    cut: where neighbours differ by more, the earlier one is shown twice instead of a mixture of both; None: never.

    The given frames come back as they are, each pair with one frame between; an even number ends on its last frame
    twice, as the reference does. Raises: StageError when there are too few frames or the engine gives NaN.
    """
    needed = base_frames(num_frames, interpolate=True)
    source = itertools.islice(itertools.chain.from_iterable(frames), needed)
    last = next(source, None)
    if last is None:
        raise StageError(_too_few(0, num_frames))
    yield last[None]
    done = 1
    for block in _doubled(_groups(last, source, _batch(engine)), engine, cut):
        yield block
        last = block[-1]
        done += len(block) // 2
    if done < needed:
        raise StageError(_too_few(done, num_frames))
    if num_frames % 2 == 0:
        yield last[None]


def _doubled(groups: Iterable[Frames], engine: Engine, cut: float | None) -> Iterator[Frames]:
    """`_with_middles` of each group; what the host does for one is done while the engine has the next."""
    given, again = for_calls(groups)
    calls = (Call(engine, _pairs(group, _batch(engine))) for group in given)
    middles = (np.asarray(made["middle"]) for made in run_all(calls))
    return ahead(lambda pair: _with_middles(*pair, cut), zip(middles, again, strict=True), 1)


def _groups(last: Frames, source: Iterator[Frames], batch: int) -> Iterator[Frames]:
    """The frame before, [H, W, 3], and up to `batch` that follow: [n + 1, H, W, 3] each."""
    while following := list(itertools.islice(source, batch)):
        yield np.stack([last, *following])
        last = following[-1]


def _too_few(count: int, num_frames: int) -> str:
    return (
        f"interpolation got {count} frames, {num_frames} frames need {base_frames(num_frames, interpolate=True)}; "
        "generate more base frames or ask for fewer"
    )


def _batch(engine: Engine) -> int:
    return engine.spec.inputs[0].shape[0]


def _pairs(group: Frames, batch: int) -> dict[str, Value]:
    """The neighbours in `group`, [n + 1, H, W, 3], as the engine takes them."""
    return {"image0": _unit(group[:-1], batch), "image1": _unit(group[1:], batch)}


def _with_middles(middle: Array, group: Frames, cut: float | None) -> Frames:
    """group: [n + 1, H, W, 3] -> the middle of each pair and the pair's later frame in turn, [2n, H, W, 3].

    middle: [batch, 3, H, W], in [0, 1], as the engine gives it.
    """
    first, second = group[:-1], group[1:]
    middles = _middles(first, second, middle[: len(first)])
    if cut is not None:
        cuts = scene_change(first, second) > cut
        middles[cuts] = first[cuts]
    return np.stack([middles, second], axis=1).reshape(-1, *group.shape[1:])


def _middles(first: Frames, second: Frames, middle: Array) -> Frames:
    """first, second: [n, H, W, 3]; middle: [n, 3, H, W] -> [n, H, W, 3]."""
    for frame, plain in zip(middle, _single(first) | _single(second), strict=True):
        check = check_finite if plain else check_frames  # between frames of one colour such a one is right
        check("interpolate", frame[None])
    return pictures_of(middle, lambda plane: (plane.astype(np.float32) * np.float32(255.0)).astype(np.uint8))


def _single(frames: Frames) -> npt.NDArray[np.bool_]:
    """[n, H, W, 3] -> [n]: whether a frame is of one colour; the first row tells most that are not."""
    return np.array([all((part == frame[0, 0]).all() for part in (frame[0], frame)) for frame in frames])


def _unit(frames: Frames, batch: int) -> Array:
    """[n, H, W, 3], uint8 -> [batch, 3, H, W], float32, in [0, 1]; the last frame fills the batch."""
    filled = frames[np.minimum(np.arange(batch), len(frames) - 1)]
    return np.ascontiguousarray(filled.transpose(0, 3, 1, 2), np.float32) / np.float32(255.0)


def scene_change(first: Frames, second: Frames) -> Array:
    """first, second: [n, H, W, 3] -> [n], mean difference of their thumbnails in 8-bit levels."""
    difference = _thumbnails(first) - _thumbnails(second)
    return np.asarray(np.abs(difference).mean((1, 2, 3)), np.float32)


def _thumbnails(frames: Frames) -> Array:
    """[n, H, W, 3] -> [n, ceil(H / 16), ceil(W / 16), 3], means of blocks; those at the far edges are smaller."""
    rows, columns = (range(0, length, THUMBNAIL) for length in frames.shape[1:3])
    strips = np.stack([frames[:, row : row + THUMBNAIL].sum(1, dtype=np.uint16) for row in rows], 1)
    sums = np.add.reduceat(strips, columns, 2, np.uint32)
    heights, widths = (np.minimum(THUMBNAIL, n - np.arange(0, n, THUMBNAIL)) for n in frames.shape[1:3])
    return np.asarray(sums / (heights[:, None] * widths)[..., None], np.float32)
