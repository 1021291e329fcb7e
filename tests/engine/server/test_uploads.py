"""Pictures that strangers send."""

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from PIL import Image
from serving import SMALL, Served, serving

from stt2v.engine.errors import InputError
from stt2v.engine.server import uploads

PIXELS = 4_000_000


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that says it is that large, with the compressed `rows` inside."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def saved(kind: str, size: tuple[int, int] = (80, 64), **how: object) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, "teal").save(file, kind, **how)
    return file.getvalue()


HOSTILE = {
    "nothing": b"",
    "text": b"#!/bin/sh\nrm -rf /\n",
    "page": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n",
    "bomb": png(60_000, 60_000, b"\0" * 10_000_000),
    "too many pixels": png(2001, 2000),
    "a lie": png(100, 100, b"\0" * 10),
    "cut off": saved("JPEG")[:-200],
    "too small": saved("PNG", (63, 64)),
    "another format": saved("TIFF"),
    "an icon": saved("ICO", sizes=[(64, 64)]),
    "a movie": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with pytest.raises(InputError, match=r"^(the picture|image) "):
        uploads.save_picture(HOSTILE[name], path, PIXELS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_kept_as_our_own(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "where I live"
    path = tmp_path / "picture.png"
    uploads.save_picture(saved(kind, exif=exif), path, PIXELS)
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 80))
    assert b"where I live" not in path.read_bytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    with serving(tmp_path_factory.mktemp("server"), upload=100_000, pixels=PIXELS) as server:
        yield server


def test_what_is_refused_leaves_nothing(served: Served) -> None:
    form = {name: str(value) for name, value in SMALL.items()}
    for data in HOSTILE.values():
        answer = served.client.post("/v1/videos", data=form, files={"input_reference": ("../../x.png", data)})
        assert answer.status_code == 400, answer.text
        assert "picture" in answer.json()["error"]["message"] or "image" in answer.json()["error"]["message"]
    assert not list((served.studio.files.folder / "videos").iterdir())
    assert not served.client.get("/v1/videos").json()["data"]


def test_large_bodies_are_not_read(served: Served) -> None:
    answer = served.client.post("/v1/videos", files={"input_reference": b"x" * 100_001})
    assert answer.status_code == 413
    assert "100,000 bytes" in answer.json()["error"]["message"]


def test_large_bodies_of_no_length_are_not_read_to_their_end(served: Served) -> None:
    sent = 0

    def endless() -> object:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="input_reference"; filename="x"\r\n\r\n'
        while sent < 50_000_000:
            sent += 10_000
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with suppress(httpx2.TransportError):  # the server may close the connection before the client has sent all
        assert served.client.post("/v1/videos", content=endless(), headers=headers).status_code == 413
    assert sent < 20_000_000


def test_two_files_and_files_by_other_names_are_refused(served: Served) -> None:
    picture = saved("PNG")
    two = served.client.post("/v1/videos", files=[("input_reference", picture), ("input_reference", picture)])
    other = served.client.post("/v1/videos", files={"prompt": picture})
    assert (two.status_code, other.status_code) == (400, 422)
