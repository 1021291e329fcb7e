"""Randomized blending (StreamingT2V, section 4.3): a long clip worked on in overlapping windows of fixed length.

In every step each window is denoised alone. Inside an overlap, the frames before a random offset come from the earlier
window and the rest from the later one: a hard cut whose place changes from step to step, never a weighted mean.
"""

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Array
from stt2v.engine.errors import PlanError
from stt2v.engine.noise import NoiseSource

Offsets = npt.NDArray[np.int64]


class Latents(Protocol):
    """[frames, C, h, w], float32, read and written by ranges of frames: an array, or a file."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: slice, /) -> Array: ...

    def __setitem__(self, frames: slice, values: Array, /) -> None: ...


def window_starts(frames: int, window: int, overlap: int) -> tuple[int, ...]:
    """Where windows begin so that they cover exactly `frames`: 0, window - overlap, ..., frames - window.

    The last window begins where it has to and may share more than `overlap` with the one before.

    Raises: PlanError when the windows cannot advance, or `frames` is less than one window (generate that many frames
    and cut the result).
    """
    if not 0 <= overlap < window:
        raise PlanError(f"overlap is {overlap} of window {window}, expected 0 to {window - 1}; lower the overlap")
    if frames < window:
        raise PlanError(f"clip has {frames} frames, expected at least a window of {window}; generate more frames")
    last = frames - window
    return (*range(0, last, window - overlap), last)


def overlaps(starts: Sequence[int], window: int) -> tuple[int, ...]:
    """How many frames each window shares with the one before it; 0 for the first."""
    return (0, *(before + window - start for before, start in itertools.pairwise(starts)))


def draw_offsets(noise: NoiseSource, stage: str, steps: int, starts: Sequence[int], window: int) -> Offsets:
    """Where every window of every step is cut: [steps, windows], each in [0, its overlap), 0 where nothing overlaps."""
    shared = overlaps(starts, window)
    return np.array(
        [
            [noise.integers(stage, number, step, 0, overlap) if overlap else 0 for number, overlap in enumerate(shared)]
            for step in range(steps)
        ],
        np.int64,
    )


def place(window: Array, start: int, offset: int, out: Latents) -> None:
    """Put the result of one window into the clip's: its frames from its offset on, over those of the window before.

    window: [window, C, h, w]; out: [frames, C, h, w], whole once all windows are placed in their order.
    """
    out[start + offset : start + len(window)] = window[offset:]
