"""Damaged videos: frames and a record come out, or one line says why not."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from fuzz.mutation import amounts, damaged, damaged_json, refused_in_one_line, search
from stt2v.engine.errors import InputError
from stt2v.engine.media.read import count_frames, read_frames
from stt2v.engine.media.video import LIVE, VideoWriter
from stt2v.engine.models import find_model
from stt2v.engine.record import read_record
from stt2v.engine.request import Request

TINY = find_model("tiny")
MADE = {"model": "tiny", "stt2v": "1"} | Request(image=Path(__file__), on_drift="warn").resolve(TINY).to_json()
MADE = json.loads(json.dumps(MADE)) | {"image_path": __file__}
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)


def whole() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "whole.mp4")
        with VideoWriter(path, 48, 32, 8.0, {"comment": json.dumps(MADE)}) as writer:
            writer.write(FRAMES)
        return path.read_bytes()


def fragmented() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "live.mp4")
        with VideoWriter(path, 48, 32, 8.0, {}, LIVE) as preview:
            preview.write(FRAMES)
        return path.read_bytes()


def repeat(path: Path) -> None:
    """What `--from` does before any work."""
    read_record(path).again("tiny", {}).resolve(TINY)


@pytest.mark.parametrize("make", [whole, fragmented])
@amounts
def test_damaged_videos(make: Callable[[], bytes], examples: int, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for read in (count_frames, lambda path: list(islice(read_frames(path), 100)), repeat):
            with refused_in_one_line():
                read(path)

    search(examples, check, data=damaged(make()))


@amounts
def test_damaged_records(examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "video.mp4"
    comment: list[str] = []
    monkeypatch.setattr("stt2v.engine.record.read_comment", lambda path: comment[-1])

    def check(made: Any) -> None:
        comment.append(json.dumps(made))
        with refused_in_one_line():
            list(read_record(path).differences(MADE))
            repeat(path)

    search(4 * examples, check, made=damaged_json(MADE))


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/dev/zero\n")
    for read in (count_frames, read_record, lambda path: list(read_frames(path))):
        with pytest.raises(InputError):
            read(tmp_path / "list.mp4")
