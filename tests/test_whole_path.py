"""The shipped `tiny` from a picture to a video, through every stage, as a user gets it."""

import hashlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import stt2v
from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import UsageError
from stt2v.engine.media.read import read_frames
from stt2v.engine.progress import Silent
from stt2v.engine.record import read_record
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.videos import generate_video

PICTURE = Path(__file__).parent / "data" / "landscape.jpg"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session.open("tiny") as opened:
        yield opened


def make(session: Session, **changes: object) -> Frames:
    request = Request(**{"image": PICTURE, "num_frames": 12, "enhancer": "none", "interpolate": False, **changes})
    return np.concatenate([chunk.frames for chunk in session.generate(request)])


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("num_frames", [1, 16, 25, 26, 37, 76, 77, 100, 101, 200])
def test_exactly_as_many_frames_as_asked_for(session: Session, num_frames: int, interpolate: bool) -> None:
    frames = make(session, num_frames=num_frames, interpolate=interpolate, steps=1)
    assert frames.shape == (num_frames, 64, 128, 3)


@pytest.mark.parametrize("num_frames", [1, 37])
def test_all_stages(session: Session, num_frames: int) -> None:
    frames = make(session, num_frames=num_frames, enhancer=None, interpolate=True)
    assert frames.shape == (num_frames, 128, 256, 3)
    assert frames.std() > 1


def test_same_seed_same_video_bit_for_bit(session: Session, tmp_path: Path) -> None:
    request = Request(image=PICTURE, num_frames=30)
    hashes = set()
    for name in ("a", "b"):
        with Session.open("tiny") as fresh:
            video = generate_video(fresh, request, tmp_path / f"{name}.mp4", Silent()).path
        hashes.add(hashlib.sha256(video.read_bytes()).hexdigest())
    assert len(hashes) == 1


@pytest.mark.parametrize("changes", [{"seed": 34}, {"steps": 2}, {"guidance": (1.0, 9.0)}, {"fit": "pad"}])
def test_settings_reach_the_video(session: Session, changes: dict[str, object]) -> None:
    base, other = make(session, num_frames=30), make(session, num_frames=30, **changes)
    assert not np.array_equal(base, other)


def test_settings_reach_the_enhancer(session: Session) -> None:
    def enhanced(**changes: object) -> Frames:
        return make(session, num_frames=19, enhancer=None, **changes)

    base = enhanced()
    for changes in ({"prompt": "a lighthouse"}, {"negative_prompt": "grass"}, {"overlap": 5}, {"blending": False}):
        assert not np.array_equal(enhanced(**changes), base)


def test_steps_can_be_watched_and_changed(session: Session) -> None:
    seen = []

    def watch(_: Session, step: int, timestep: float, kwargs: dict[str, object]) -> dict[str, object]:
        seen.append((kwargs["chunk"], step))
        return kwargs

    video = stt2v.generate(
        PICTURE, model="tiny", num_frames=26, enhancer="none", interpolate=False, callback_on_step_end=watch
    )
    assert video.frames[0].shape == (26, 64, 128, 3)
    assert seen == [(chunk, step) for chunk in (0, 1) for step in range(4)]


def test_what_python_makes_can_be_saved_and_made_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limits = stt2v.DriftLimits(seam=99, colour=255)
    video = stt2v.generate(
        str(PICTURE),
        model="tiny",
        num_frames=26,
        steps=1,
        enhancer="none",
        on_drift="warn",
        drift_limits=limits,
        interpolate=False,
        progress=True,
    )
    assert "chunk 1: seam" in capfd.readouterr().err
    video.save(tmp_path / "out.mp4")
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 26
    again = read_record(tmp_path / "out.mp4").again("tiny", {})
    assert (again.image, again.num_frames, again.drift_limits) == (PICTURE, 26, limits)
    with pytest.raises(UsageError, match=r"ends in \.mp4"):
        video.save("out.avi")


def test_python_takes_every_setting_of_a_request() -> None:
    assert {field.name for field in fields(Request)} <= {*inspect.signature(stt2v.generate).parameters}


def test_unknown_window_is_refused_before_any_work(session: Session) -> None:
    with pytest.raises(UsageError, match="window"):
        session.generate(Request(image=PICTURE, window=11))


def test_a_video_is_made_without_torch(tmp_path: Path) -> None:
    """In an environment where torch cannot be imported at all."""
    script = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers', 'onnx'): sys.modules[name] = None\n"
        "from stt2v.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = [
        "generate",
        "--model",
        "tiny",
        "--image",
        str(PICTURE),
        "--num-frames",
        "3",
        "-o",
        str(tmp_path / "out.mp4"),
    ]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 0
