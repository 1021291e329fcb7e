"""Decoding latents to pixels in groups of fixed size, and the 8-bit conversions."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.parallel.group import Call, run_all
from stt2v.engine.stages.check import check_frames


def decode_groups(num_frames: int, group: int) -> list[int]:
    """Sizes of the groups: 25 frames by 8 are 8, 8, 8, 1. A temporal decoder's result depends on them."""
    return [min(group, num_frames - start) for start in range(0, num_frames, group)]


def decode(engines: Mapping[str, Engine], latents: Value, group: int) -> Array:
    """latents: [F, C, h, w] -> frames: [F, 3, H, W], float32, in [-1, 1], decoded `group` frames at a time.

    Each group is checked while a card is at work on the next. Raises StageError as `check_frames` does.
    """
    calls = _calls(engines, np.asarray(latents), group)
    return np.concatenate([check_frames("decode", np.asarray(made["frames"])) for made in run_all(calls)])


def _calls(engines: Mapping[str, Engine], latents: Array, group: int) -> Iterator[Call]:
    start = 0
    for size in decode_groups(len(latents), group):
        yield Call(engines[f"vae_decode_{size}"], {"latents": latents[start : start + size]})
        start += size


def to_uint8(frames: Array) -> Frames:
    """frames: [F, 3, H, W], float32, in [-1, 1] -> [F, H, W, 3], uint8.

    Truncates, in the reference's order of float32 operations, so that the published results are met level by level.
    """
    return pictures_of(frames, _truncated)


def _truncated(plane: Array) -> Frames:
    unit = (plane - np.float32(-1.0)) / np.float32(2.0) * np.float32(255.0)
    levels: Array = np.float32(255.0) * np.clip(unit, 0.0, 255.0) / np.float32(255.0)
    return levels.astype(np.uint8)


def pictures_of(frames: Array, levels: Callable[[Array], Frames]) -> Frames:
    """frames: [F, 3, H, W] -> [F, H, W, 3], uint8; `levels` makes the 8-bit levels of one colour of a frame, [H, W].

    Plane by plane, which is 2 to 4 times as fast as whole arrays: these would be new memory for every operation.
    """
    pictures: Frames = np.empty((len(frames), *frames.shape[2:], frames.shape[1]), np.uint8)
    for frame, picture in zip(frames, pictures, strict=True):
        for colour, plane in enumerate(frame):
            picture[..., colour] = levels(plane)
    return pictures


def through_8_bits(frames: Array) -> Array:
    """frames: [F, 3, H, W], float32, in [-1, 1], rounded to the 256 levels of a picture.

    The first chunk leaves the stock SVD-XT pipeline as pictures, so what follows sees it with 8 bits.
    """
    return from_uint8(rounded(frames))


def rounded(values: Array) -> Frames:
    """float32 in [-1, 1] -> the nearest 8-bit level, in the same layout."""
    unit: Array = np.clip(values / np.float32(2.0) + np.float32(0.5), 0.0, 1.0)
    levels: Frames = np.rint(unit * np.float32(255.0)).astype(np.uint8)
    return levels


def from_uint8(levels: Frames) -> Array:
    """8-bit pictures of any layout -> float32 in [-1, 1]."""
    return levels.astype(np.float32) / np.float32(255.0) * np.float32(2.0) - np.float32(1.0)
