"""Decoding latents to pixels in groups of fixed size, and the 8-bit conversions."""

from collections.abc import Iterator, Mapping

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.parallel.group import Call, run_all


def decode_groups(num_frames: int, group: int) -> list[int]:
    """Sizes of the groups: 25 frames by 8 are 8, 8, 8, 1. A temporal decoder's result depends on them."""
    return [min(group, num_frames - start) for start in range(0, num_frames, group)]


def decode(engines: Mapping[str, Engine], latents: Value, group: int) -> Array:
    """latents: [F, C, h, w] -> frames: [F, 3, H, W], float32, in [-1, 1], decoded `group` frames at a time."""
    calls = _calls(engines, np.asarray(latents), group)
    return np.concatenate([np.asarray(made["frames"]) for made in run_all(calls)])


def _calls(engines: Mapping[str, Engine], latents: Array, group: int) -> Iterator[Call]:
    start = 0
    for size in decode_groups(len(latents), group):
        yield Call(engines[f"vae_decode_{size}"], {"latents": latents[start : start + size]})
        start += size


def to_uint8(frames: Array) -> Frames:
    """frames: [F, 3, H, W], float32, in [-1, 1] -> [F, H, W, 3], uint8.

    Truncates, in the reference's order of float32 operations, so that the published results are met level by level.
    """
    unit = (frames - np.float32(-1.0)) / np.float32(2.0) * np.float32(255.0)
    levels = np.float32(255.0) * np.clip(unit, 0.0, 255.0) / np.float32(255.0)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def through_8_bits(frames: Array) -> Array:
    """frames: [F, 3, H, W], float32, in [-1, 1], rounded to the 256 levels of a picture.

    The first chunk leaves the stock SVD-XT pipeline as pictures, so what follows sees it with 8 bits.
    """
    unit = np.clip(frames / np.float32(2.0) + np.float32(0.5), 0.0, 1.0)
    levels = np.rint(unit * np.float32(255.0)).astype(np.uint8)
    return from_uint8(levels)


def from_uint8(levels: Frames) -> Array:
    """8-bit pictures of any layout -> float32 in [-1, 1]."""
    return levels.astype(np.float32) / np.float32(255.0) * np.float32(2.0) - np.float32(1.0)
