"""Damaged pictures of every format that is read: a picture comes out, or one line says why not."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fuzz.mutation import damaged, refused_in_one_line, search, small_amounts
from stt2v.engine.media.image import fit_image, load_image

SIZE = (72, 64)


def picture(mode: str) -> Image.Image:
    ramp = np.add.outer(2 * np.arange(SIZE[1]), np.arange(SIZE[0])).astype(np.uint8)  # short in every format
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    return Image.fromarray(np.stack([ramp, ramp // 2, 255 - ramp], axis=-1)).convert(mode)


def saved(format_: str, mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    if options.get("save_all"):
        options["append_images"] = [picture(mode).rotate(90), picture(mode).rotate(180)]
    if options.pop("turned", False):
        options["exif"] = picture(mode).getexif()
        options["exif"][0x0112] = 6
    picture(mode).save(file, format_, **options)
    return file.getvalue()


WHOLE = {
    "png": saved("PNG"),
    "png-palette": saved("PNG", "P"),
    "png-16": saved("PNG", "I;16"),
    "png-alpha-turned": saved("PNG", "RGBA", turned=True),
    "apng": saved("PNG", save_all=True),
    "jpeg-turned": saved("JPEG", turned=True),
    "jpeg-cmyk": saved("JPEG", "CMYK"),
    "gif": saved("GIF", "P", save_all=True),
    "webp": saved("WEBP", "RGBA", save_all=True),
    "tiff-16": saved("TIFF", "I;16"),
    "tiff-cmyk": saved("TIFF", "CMYK", compression="tiff_lzw"),
    "tiff-float": saved("TIFF", "F"),
    "bmp": saved("BMP"),
    "ico": saved("ICO", sizes=[(64, 64)]),
    "jpeg2000": saved("JPEG2000"),
    "avif": saved("AVIF"),
    "ppm": saved("PPM"),
    "tga": saved("TGA", "RGBA", compression="tga_rle"),
    "pcx": saved("PCX"),
    "sgi": saved("SGI"),
    "dds": saved("DDS"),
    "qoi": saved("QOI"),
}


@pytest.mark.parametrize("kind", WHOLE)
@small_amounts
def test_damaged_pictures(kind: str, examples: int, tmp_path: Path) -> None:
    path = tmp_path / "picture"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with refused_in_one_line():
            loaded = load_image(path)
            assert loaded.mode == "RGB"
            assert fit_image(loaded, 32, 16, "crop")[0].shape == (16, 32, 3)

    search(examples, check, data=damaged(WHOLE[kind]))
