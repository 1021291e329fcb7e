"""What StreamingT2V does to pictures before and after the models that make its first chunks.

SVD takes 1024x576 and StreamingT2V a square: a still is laid between black margins, which are cut off again.
"""

from typing import TYPE_CHECKING

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.media.canvas import Size, content, on_canvas
from stt2v.engine.media.image import size_at_height

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 576
CANVAS = (1024, SIDE)


def central_square(picture: "Image") -> Frames:
    """The middle of a picture, [576, 576, 3], uint8: bicubic to 576 rows, in the reference's rounding, then cut.

    A picture higher than wide is fitted by its width, where the reference leaves black at the sides.
    """
    from PIL import Image

    width, height = size_at_height(picture.size, SIDE)
    if width < SIDE:
        width, height = SIDE, max(SIDE, int(picture.size[1] * (SIDE / picture.size[0])))
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    scaled = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((left, top, left + SIDE, top + SIDE)))


def squeezed(picture: "Image") -> Frames:
    """The whole picture, bicubic to [576, 576, 3], uint8."""
    from PIL import Image

    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def with_margins(square: Frames) -> Frames:
    """[576, 576, 3] -> [576, 1024, 3]: 224 black columns on either side."""
    return on_canvas(square, CANVAS)


def without_margins(frames: Frames) -> Frames:
    """[F, 576, 1024, 3] -> [F, 576, 576, 3]: what lies between the margins."""
    return np.stack([content(frame, (SIDE, SIDE)) for frame in frames])


def nearest(frames: Frames, size: Size) -> Frames:
    """frames: [F, H, W, 3] -> [F, height, width, 3]: row i is row floor(i H / height), columns likewise."""
    width, height = size
    rows = np.arange(height) * frames.shape[1] // height
    columns = np.arange(width) * frames.shape[2] // width
    return np.ascontiguousarray(frames[:, rows[:, None], columns])
