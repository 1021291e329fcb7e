"""Whole videos by several processes; apart from their parts, whose group would be in the way in the same process."""

from pathlib import Path

import numpy as np
import pytest

from stt2v.engine.backends.base import Frames
from stt2v.engine.request import Request
from stt2v.engine.session import Session

pytest.importorskip("torch")

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"


def video(gpus: int, model: str, **asked: object) -> Frames:
    with Session.open(model, gpus=gpus) as session:
        return np.concatenate([chunk.frames for chunk in session.generate(Request(**asked))])


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [2, 3])
@pytest.mark.parametrize("model", ["tiny", "mini"])
def test_a_whole_video_is_equal_bit_for_bit(gpus: int, model: str) -> None:
    asked = {"image": PICTURE} if model == "tiny" else {"prompt": "a cat bouncing"}
    one, several = (video(count, model, num_frames=37, steps=2, **asked) for count in (1, gpus))
    np.testing.assert_array_equal(one, several)
