"""Pictures on their way into and out of the enhancer's networks, as the reference prepares them.

A picture is [H, W, 3], uint8. Sizes are (width, height) in pixels.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.Image import Resampling

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.stages.decode import pictures_of, rounded

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def resized(picture: Frames, size: tuple[int, int]) -> Frames:
    """The picture at `size`, bicubic."""
    return _resized(picture, size, Resampling.BICUBIC)


def enlarged(picture: Frames, size: tuple[int, int]) -> Frames:
    """The picture at `size`, bilinear."""
    return _resized(picture, size, Resampling.BILINEAR)


def centre_crop(picture: Frames, size: tuple[int, int]) -> Frames:
    """Scale the picture to cover `size` and cut out its middle.

    Rounding down can leave the scaled side one pixel short; like the reference, a black line fills it.
    """
    width, height = picture.shape[1], picture.shape[0]
    scale = min(width / size[0], height / size[1])
    scaled = Image.fromarray(picture).resize((round(width // scale), round(height // scale)), Resampling.BOX)
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    return np.asarray(scaled.crop((left, top, left + size[0], top + size[1])))


def clip_picture(picture: Frames, side: int, crop: int) -> Frames:
    """What CLIP sees of a picture: its middle as a square of `crop` pixels, then bilinear to `side` pixels."""
    return _resized(centre_crop(picture, (crop, crop)), (side, side), Resampling.BILINEAR)


def clip_pixels(picture: Frames) -> Array:
    """picture: [H, W, 3], uint8 -> [1, 3, H, W], float32, with CLIP's mean and spread taken out."""
    return _planes((picture.astype(np.float32) / np.float32(255.0) - CLIP_MEAN) / CLIP_STD)


def rounded_picture(pixels: Array) -> Frames:
    """pixels: [1, 3, H, W], float32, in [-1, 1] -> [H, W, 3], uint8, rounded to the nearest level."""
    picture: Frames = pictures_of(pixels, rounded)[0]
    return picture


def _resized(picture: Frames, size: tuple[int, int], filter_: Resampling) -> Frames:
    return np.asarray(Image.fromarray(picture).resize(size, filter_))


def _planes(picture: npt.NDArray[np.float32]) -> Array:
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None])
