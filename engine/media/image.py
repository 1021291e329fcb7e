"""Reading an input image and fitting it to a model's size."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import InputError
from stt2v.engine.manifest import hash_file
from stt2v.engine.paths import exists, is_file
from stt2v.engine.stages.decode import from_uint8

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["crop", "pad"]

SMALLEST_SIDE = 64
LARGEST_PIXELS = 80_000_000
LARGEST_ASPECT = 100  # longer side over shorter: a sliver would be scaled up to many more pixels than it has


def load_image(source: "Path | Image") -> "Image":
    """The picture upright, in RGB; transparency lies on white, of an animation it is the first frame.

    Colours are sRGB, turned into it where the picture says that they are others. Raises InputError for files that are
    missing, no image, too small or too large, and for numbers without a known range (32 bits a channel).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a file that can be read all the same
            if not isinstance(source, Path):
                return _loaded(source, "given")
            with _opened(source) as picture:
                return _loaded(picture, source)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise _unreadable(source, error) from error


def image_hash(path: Path) -> str:
    """SHA-256 of a picture's file. Raises InputError when it cannot be read."""
    try:
        _check_file(path)
        return hash_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_file(path: Path) -> None:
    """Raise InputError for what is no file; a pipe or a device could be read for ever."""
    if not exists(path):
        raise InputError(f"image {path} does not exist; give the path of a picture")
    if not is_file(path):
        raise InputError(f"image {path} is no file; give the path of a picture")


def _unreadable(source: object, error: Exception) -> InputError:
    why, name = str(error) or type(error).__name__, source if isinstance(source, Path) else "given"
    return InputError(f"image {name} cannot be read as a picture ({why}); give a JPEG or PNG")


def _opened(path: Path) -> "Image":
    from PIL import Image

    _check_file(path)
    Image.init()
    return Image.open(path, formats=[name for name in Image.ID if name != "EPS"])  # which would start Ghostscript


def _loaded(picture: "Image", name: object) -> "Image":
    _check_size(picture.size, name)
    picture.load()
    _check_size(picture.size, name)  # an icon may hold a picture of another size than it says
    return _upright(picture)


def _upright(picture: "Image") -> "Image":
    from PIL import ImageOps

    return _rgb(ImageOps.exif_transpose(picture))


def _check_size(size: tuple[int, int], name: object) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise InputError(f"image {name} is {width}x{height}, its shorter side must have {SMALLEST_SIDE} pixels or more")
    if max(size) > LARGEST_ASPECT * min(size):
        raise InputError(
            f"image {name} is {width}x{height}, its longer side may be {LARGEST_ASPECT} times the shorter; crop it"
        )
    if width * height > LARGEST_PIXELS:
        raise InputError(f"image {name} is {width}x{height}, at most {LARGEST_PIXELS:,} pixels are read; shrink it")


def _rgb(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    picture = _in_srgb(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: "Image") -> "Image":
    """A grey picture of 16 bits a pixel in 8, scaled; convert() would clip. Raises InputError for numbers beyond."""
    from PIL import Image

    levels = np.asarray(picture)
    if picture.mode == "F" or levels.min() < 0 or levels.max() > 0xFFFF:
        raise InputError("image has 32 bits a channel, whose range is not known; convert it to 8 or 16 bits")
    return Image.fromarray((levels // 257).astype(np.uint8))


def _in_srgb(picture: "Image") -> "Image":
    """The colours that the picture's profile means; one that cannot be read, or is sRGB, changes nothing."""
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return picture
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return picture
        target = ImageCms.createProfile("sRGB")
        mode = "RGBA" if picture.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(picture, source, target, outputMode=mode) or picture
    except (ImageCms.PyCMSError, OSError):
        return picture


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
