"""The record in a video's file: what it leads back to, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stt2v.engine.errors import InputError
from stt2v.engine.manifest import hash_file
from stt2v.engine.media.video import VideoWriter
from stt2v.engine.models import find_model
from stt2v.engine.record import Record, read_record
from stt2v.engine.request import Request

TINY = find_model("tiny")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (128, 64), "navy").save(path)
    return path


def made_of(picture: Path, **asked: Any) -> dict[str, Any]:
    """What stands in the file of a video of `picture`."""
    settings = Request(image=picture, **asked).resolve(TINY).to_json()
    return {"stt2v": "1.2", "model": "tiny", "weights": "a" * 64, "image_path": str(picture), **settings}


def record_in(folder: Path, made: object) -> Record:
    """The record read from an MP4 that carries `made`."""
    text = made if isinstance(made, str) else json.dumps(made)
    with VideoWriter(folder / "made.mp4", 16, 16, 8.0, {"comment": text} if text else {}) as writer:
        writer.write(np.zeros((1, 16, 16, 3), np.uint8))
    return read_record(folder / "made.mp4")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"num_frames": 7, "seed": 3, "fps": 12.5, "steps": 2, "guidance": (1.0, 2.5), "fit": "pad"},
        {"prompt": "🐈 猫", "negative_prompt": "", "enhancer": "none", "interpolate": False},
        {"window": 6, "overlap": 2},
        {"blending": False},
    ],
)
def test_a_record_leads_back_to_the_same_settings(asked: dict[str, Any], picture: Path, tmp_path: Path) -> None:
    again = record_in(tmp_path, made_of(picture, **asked)).again("tiny", {})
    assert again.resolve(TINY) == Request(image=picture, **asked).resolve(TINY)


def test_what_is_given_overrides(picture: Path, tmp_path: Path) -> None:
    record = record_in(tmp_path, made_of(picture, seed=3, window=6, overlap=2))
    assert record.again("tiny", {"seed": 4}) == replace(record.again("tiny", {}), seed=4)
    assert record.again("tiny", {"enhancer": "none"}).resolve(TINY).enhancing is None
    hard_cuts = record.again("tiny", {"blending": False}).resolve(TINY).enhancing
    assert hard_cuts is not None
    assert (hard_cuts.window, hard_cuts.overlap) == (6, 0)
    other = Image.new("RGB", (64, 64))
    assert record.again("tiny", {"image": other}).image is other


def test_another_model_keeps_what_every_model_has(picture: Path, tmp_path: Path) -> None:
    record = record_in(tmp_path, made_of(picture, seed=3, steps=2, prompt="a cat", window=6))
    assert record.again("streaming-svd", {}) == Request(image=picture, seed=3, prompt="a cat")


def test_the_picture_is_known_by_its_hash(picture: Path, tmp_path: Path) -> None:
    record = record_in(tmp_path, made_of(picture))
    assert record.again("tiny", {}).image == picture
    Image.new("RGB", (128, 64), "red").save(picture)
    with pytest.raises(InputError, match=r"picture\.png is not the picture .* give --image"):
        record.again("tiny", {})
    picture.unlink()
    with pytest.raises(InputError, match="give it by --image"):
        record.again("tiny", {})


def test_differences(picture: Path, tmp_path: Path) -> None:
    made = made_of(picture)
    record = record_in(tmp_path, made | {"command": "stt2v generate"})
    assert not list(record.differences(made))
    now = made | {"stt2v": "1.3", "weights": "b" * 64, "streaming": made["streaming"] | {"steps": 9}, "command": "?"}
    path = tmp_path / "made.mp4"
    assert list(record.differences(now)) == [
        f"{path} was made with streaming.steps {made['streaming']['steps']}, here it is 9",
        f'{path} was made with stt2v "1.2", here it is "1.3"',
        f"{path} was made with weights {'a' * 12}, here it is {'b' * 12}",
    ]


@pytest.mark.parametrize(
    "made",
    [
        "",
        "hello",
        "[1]",
        "{}",
        "[" * 100_000,
        '{"model": "tiny"}',
        {"model": 3},
        {"num_frames": "many"},
        {"num_frames": True},
        {"streaming": None},
        {"streaming": {"schedule": "x", "steps": 1, "guidance": [1]}},
        {"streaming": {"schedule": "x", "steps": 1, "guidance": ["1", "2"]}},
        {"enhancing": {"name": ["vid2vid"]}},
        {"drifting": {"action": "warn", "limits": {"seam": -1}}},
    ],
)
def test_what_is_no_record_is_refused(made: Any, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="carries no settings"):
        record_in(tmp_path, made_of(picture) | made if isinstance(made, dict) else made)


def test_hash_of_the_file_is_in_the_settings(picture: Path) -> None:
    assert made_of(picture)["image"] == hash_file(picture)
