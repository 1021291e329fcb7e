"""A video that is encoded while it is made."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stt2v.engine import film
from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError
from stt2v.engine.film import Film
from stt2v.engine.media.read import count_frames
from stt2v.engine.media.video import VideoWriter
from stt2v.engine.pipeline import OnBase
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request
from stt2v.engine.runs.run import Run, scratch_run
from stt2v.engine.session import Session

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"
REQUEST = Request(image=PICTURE, num_frames=90, steps=1, enhancer="none", interpolate=False)  # two segments, 5 chunks
WAIT = 300  # seconds after which a test has failed


@pytest.fixture
def run() -> Iterator[Run]:
    with scratch_run() as run:
        yield run


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session.open("tiny") as session:
        yield session


def made(session: Session, run: Run, on_base: OnBase) -> list[int]:
    """Make the video; how many frames each of its segments has."""
    film = Film(session, REQUEST.resolve(session.model), Silent(), on_base, run)
    return [count_frames(path) for path in film.segments(session.plan(REQUEST))]


def test_a_segment_ends_while_the_next_chunk_is_made(
    session: Session, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, waited = threading.Event(), list[bool]()

    class Slow(VideoWriter):
        def __exit__(self, *error: object) -> None:
            waited.append(later.wait(WAIT))
            super().__exit__(*error)

    def on_base(chunk: int, frames: Frames) -> None:
        if chunk == 3:  # the third has the last frame of the first segment
            assert not run.finished("90-frames")
            later.set()

    monkeypatch.setattr(film, "VideoWriter", Slow)
    assert made(session, run, on_base) == [48, 42]
    assert waited == [True, True]


def test_a_failing_encoder_ends_the_making(session: Session, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    second, chunks = threading.Event(), list[int]()

    class Failing(VideoWriter):
        def write(self, frames: object) -> None:
            assert second.wait(WAIT)
            raise OutputError("no place")

    def on_base(chunk: int, frames: Frames) -> None:
        chunks.append(chunk)
        if chunk == 1:  # with its frames, more wait than may
            second.set()

    monkeypatch.setattr(film, "AHEAD", 32)  # more than the frames of one chunk, fewer than those of two
    monkeypatch.setattr(film, "VideoWriter", Failing)
    with pytest.raises(OutputError, match="no place"):
        made(session, run, on_base)
    assert chunks == [0, 1]
    assert run.finished() == ["chunk-0000.safetensors", "chunk-0001.safetensors"]
    assert not [*run.directory.rglob(".part-*")]


def test_a_video_that_is_whole_is_shown_all_the_same(session: Session, run: Run) -> None:
    shown = list[tuple[int, int]]()

    def on_base(chunk: int, frames: Frames) -> None:
        shown.append((chunk, len(frames)))

    made(session, run, on_base)
    first, shown[:] = [*shown], []
    assert made(session, run, on_base) == [48, 42]
    assert shown == first
    assert sum(count for _, count in first) == 90
