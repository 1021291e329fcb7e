"""Reading an input image and fitting it to a model's size."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import InputError
from stt2v.engine.manifest import hash_file
from stt2v.engine.stages.decode import from_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "pad"]

SMALLEST_SIDE = 64
LARGEST_PIXELS = 80_000_000


def load_image(source: "Path | Image") -> "Image":
    """The picture upright, in RGB; transparency lies on white, of an animation it is the first frame.

    Raises InputError for files that are missing, no image, too small or too large.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, Path):
        _check_size(source.size, "given")
        return _upright(source)
    try:
        with warnings.catch_warnings(), _opened(source) as picture:
            _check_size(picture.size, source)
            return _upright(picture)
    except FileNotFoundError as error:
        raise _missing(source) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"image {source} has too many pixels; shrink it to {LARGEST_PIXELS:,} at most") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"image {source} cannot be read as a picture ({error}); give a JPEG or PNG") from error


def image_hash(path: Path) -> str:
    """SHA-256 of a picture's file. Raises InputError when it cannot be read."""
    try:
        return hash_file(path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise InputError(f"image {path} cannot be read as a picture ({error}); give a JPEG or PNG") from error


def _missing(path: Path) -> InputError:
    return InputError(f"image {path} does not exist; give the path of a picture")


def _opened(source: Path) -> "Image":
    from PIL import Image

    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return Image.open(source)


def _upright(picture: "Image") -> "Image":
    from PIL import ImageOps

    picture.load()
    return _rgb(ImageOps.exif_transpose(picture))


def _check_size(size: tuple[int, int], name: object) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"image {name} is {width}x{height}, its shorter side must have {SMALLEST_SIDE} pixels or more")
    if width * height > LARGEST_PIXELS:
        raise InputError(f"image {name} is {width}x{height}, at most {LARGEST_PIXELS:,} pixels are read; shrink it")


def _rgb(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits a pixel: convert() would clip instead of scale
        levels = np.asarray(picture).astype(np.float64) / 257.0
        picture = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def size_at_height(size: tuple[int, int], height: int) -> tuple[int, int]:
    """(width, height) of a picture scaled to `height`, with the reference's rounding."""
    return max(1, int(size[0] * (height / size[1]))), height


def fit_image(picture: "Image", width: int, height: int, fit: Fit) -> tuple[Frames, str]:
    """The picture at the model's size, [H, W, 3], and a word on what was cut or added ("" when nothing was).

    A picture of the model's shape is resized exactly as the reference does (bicubic).
    """
    from PIL import Image

    scaled = size_at_height(picture.size, height)
    if (scaled[0] < width) == (fit == "crop"):
        scaled = width, max(1, int(picture.size[1] * (width / picture.size[0])))
    if fit == "crop":  # rounding down must not leave a gap at the border
        scaled = max(scaled[0], width), max(scaled[1], height)
    resized = picture.resize(scaled, Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(resized, ((width - scaled[0]) // 2, (height - scaled[1]) // 2))
    return np.asarray(canvas), _word(scaled, width, height)


def _word(scaled: tuple[int, int], width: int, height: int) -> str:
    over, under = (
        [
            f"{abs(have - want) / max(have, want):.0%} of the {name}"
            for have, want, name in ((scaled[0], width, "width"), (scaled[1], height, "height"))
            if (have - want) * sign > 0
        ]
        for sign in (1, -1)
    )
    if over:
        return f"cut {over[0]} of the image to fit {width}x{height}"
    return f"black bars fill {under[0]} to fit {width}x{height}" if under else ""


def model_image(pixels: Frames) -> Array:
    """[H, W, 3], uint8 -> [1, 3, H, W], float32, in [-1, 1]."""
    return from_uint8(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])
