"""Watching for what cannot be right, after every step and frame, so that no black video is ever written."""

import numpy as np

from stt2v.engine.backends.base import Array, Value
from stt2v.engine.errors import StageError


def check_latents(stage: str, latents: Value) -> Value:
    """`latents` as they are, wherever they lie. Raises StageError when they hold NaN or infinity, or one value only."""
    values = np.asarray(latents)
    check_finite(stage, values)
    if values.size > 1 and values.min() == values.max():
        raise StageError(f"stage {stage} made latents of one single value; run `stt2v engines verify`")
    return latents


def check_frames(stage: str, frames: Array) -> Array:
    """`frames` as they are, [n, ...]. Raises StageError when they hold NaN or infinity, or one of them one value."""
    check_finite(stage, frames)
    inside = tuple(range(1, frames.ndim))
    if (frames.min(inside) == frames.max(inside)).any():
        raise StageError(f"stage {stage} made a frame of one single value; run `stt2v engines verify`")
    return frames


def check_finite(stage: str, values: Array) -> None:
    """Raise StageError when there is NaN or infinity among `values`."""
    if not np.isfinite(values).all():
        raise StageError(
            f"stage {stage} made NaN or infinite values; run `stt2v engines verify`, or build the engine set in a "
            "higher precision"
        )
