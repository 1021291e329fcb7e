"""Watching for frames that cannot be right, so that no black video is ever written."""

import numpy as np

from stt2v.engine.backends.base import Array
from stt2v.engine.errors import StageError


def check_frames(stage: str, frames: Array) -> Array:
    """`frames` as they are. Raises StageError when they hold NaN or infinity, or one value only."""
    if not np.isfinite(frames).all():
        raise StageError(
            f"stage {stage} made NaN or infinite values; build the engine set again, or in a higher precision"
        )
    if frames.size and frames.min() == frames.max():
        raise StageError(f"stage {stage} made frames of one single value; build its engine set again")
    return frames
