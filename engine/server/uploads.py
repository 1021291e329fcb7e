"""What a client sends: bodies as JSON or as forms, and pictures, which are read once and kept as our own files."""

import json
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from stt2v.engine.errors import InputError
from stt2v.engine.media.image import load_image
from stt2v.engine.media.whole import whole_file
from stt2v.engine.server.schemas import VideoBody

FORMATS = ("JPEG", "PNG", "WEBP")  # the fewest readers that do, since the files come from strangers
PICTURE = "input_reference"
FORM = "multipart/form-data"


@dataclass(frozen=True)
class Asked:
    """A body, and the bytes of the picture that came with it."""

    body: VideoBody
    picture: bytes | None


async def asked(request: Request) -> Asked:
    """What a request for a video asks for. Raises RequestValidationError, HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return Asked(_validated(_loaded(await request.body())), None)
    if kind != FORM:
        raise HTTPException(415, f"content type is {kind or 'missing'!r}, expected application/json or {FORM}")
    async with request.form(max_files=1, max_fields=20) as form:
        return await _asked_by(form)


async def _asked_by(form: FormData) -> Asked:
    values: dict[str, Any] = {}
    picture = None
    for name, value in form.multi_items():
        if name in values or (name == PICTURE and picture is not None):
            raise RequestValidationError([{"loc": ("body", name), "msg": "is there twice"}])
        if isinstance(value, UploadFile):
            if name != PICTURE:
                raise RequestValidationError([{"loc": ("body", name), "msg": "is a file; only input_reference may be"}])
            picture = await value.read()
        else:
            values[name] = value
    return Asked(_validated({name: _typed(name, text) for name, text in values.items()}), picture)


def _typed(name: str, text: str) -> Any:
    """Forms hold text only."""
    return int(text) if name == "seed" and re.fullmatch(r"[0-9]{1,20}", text) else text


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestValidationError([{"loc": ("body",), "msg": f"is no JSON ({error})"}]) from error


def _validated(values: Any) -> VideoBody:
    try:
        return VideoBody.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


def save_picture(data: bytes, path: Path, pixels: int) -> None:
    """Keep the picture in `data`, of at most `pixels` pixels, as a PNG of our own. Raises InputError."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > pixels:
                raise InputError(f"the picture is {width}x{height}, at most {pixels:,} pixels are taken; shrink it")
            upright = load_image(picture)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        raise InputError("the picture cannot be read; send a JPEG, PNG or WebP") from error
    upright.info.clear()  # nothing but pixels goes on: no place, no name, no profile
    with whole_file(path) as whole:
        upright.save(whole, compress_level=1)
