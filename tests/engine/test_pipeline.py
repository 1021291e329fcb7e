"""Chunks that a thread keeps while the next one is made."""

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stt2v.engine.backends.base import Frames, Value
from stt2v.engine.errors import StoppedError
from stt2v.engine.loop import Loop
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request
from stt2v.engine.runs import chunks as kept
from stt2v.engine.runs import run as runs
from stt2v.engine.runs.interrupt import StopEarly
from stt2v.engine.runs.run import Run
from stt2v.engine.session import Session

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"
REQUEST = Request(image=PICTURE, num_frames=43, steps=1, interpolate=False)  # two chunks
UNITS = [f"chunk-000{index}.safetensors" for index in range(2)]
WAIT = 30  # seconds after which a test has failed


class BaseVideoIsWhole(Exception):
    """The enhancer is about to begin."""


class UpToTheEnhancer(Silent):
    def stage(self, name: str, total: int) -> None:
        if name == "enhance":
            raise BaseVideoIsWhole


@dataclass(frozen=True)
class Making:
    """Makes the base video in the run at `directory`; what came of it is in the lists, in the order in which it came.

    told: chunk and step of each step; shown: of each chunk its number, and how many frames.
    """

    session: Session
    directory: Path
    told: list[tuple[int, int]] = field(default_factory=list)
    shown: list[tuple[int, int]] = field(default_factory=list)

    def make(
        self, on_unit: Callable[[str], None] = runs.unwatched, on_step: Callable[[Run], object] = Run.finished
    ) -> None:
        """Raises BaseVideoIsWhole, or what ended it before."""
        settings, plan = REQUEST.resolve(self.session.model), self.session.plan(REQUEST)
        pipeline = self.session.pipeline(settings, plan, UpToTheEnhancer(), self._show)
        with Run(self.directory) as run:
            run.on_unit = on_unit

            def told(chunk: int, step: int, timestep: float, latents: Value) -> Value:
                self.told.append((chunk, step))
                on_step(run)
                return latents

            for _ in pipeline.frames(run, self.session.picture(settings, Silent()), told):
                pass

    def _show(self, chunk: int, frames: Frames) -> None:
        self.shown.append((chunk, len(frames)))

    @property
    def files(self) -> Mapping[str, bytes]:
        """The chunks that count as finished, as they are on the disk."""
        with Run(self.directory) as run:
            return {unit: run.path(unit).read_bytes() for unit in run.finished()}


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session.open("tiny") as session:
        yield session


@pytest.fixture
def making(session: Session, tmp_path: Path) -> Making:
    (tmp_path / "run").mkdir()
    return Making(session, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The chunks when nothing disturbs their making."""
    making = Making(session, tmp_path_factory.mktemp("whole"))
    with pytest.raises(BaseVideoIsWhole):
        making.make()
    assert making.shown == [(0, 25), (1, 18)]
    assert list(making.files) == UNITS
    return making.files


def test_a_chunk_is_kept_while_the_next_one_begins(making: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is finished, and shown, when the first step of that one is told."""
    begun, next_chunk, save = threading.Event(), Loop.next_chunk, kept.save_arrays
    late = list[bool]()

    def beginning(self: Loop, *given: object) -> object:
        begun.set()
        return next_chunk(self, *given)  # type: ignore[arg-type]

    def saving(path: Path, arrays: Mapping[str, Frames]) -> None:
        late.append(begun.wait(WAIT))
        save(path, arrays)

    def finished(run: Run) -> None:
        chunk, _ = making.told[-1]
        assert run.finished() == UNITS[:chunk]
        assert len(making.shown) == chunk

    monkeypatch.setattr(Loop, "next_chunk", beginning)
    monkeypatch.setattr(kept, "save_arrays", saving)
    with pytest.raises(BaseVideoIsWhole):
        making.make(on_step=finished)
    assert late == [True, True]


def test_killed_at_any_moment_it_makes_the_same_chunks(
    making: Making, whole: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process leaves is what lies on the disk just then."""
    sync, saved, moments = runs.sync, kept.save_arrays, list[Path]()

    def look() -> None:
        moments.append(making.directory.with_name(f"moment-{len(moments)}"))
        shutil.copytree(making.directory, moments[-1])

    def syncing(path: Path) -> None:
        look()
        sync(path)

    def saving(path: Path, arrays: Mapping[str, Frames]) -> None:
        path.write_bytes(b"half")
        look()
        saved(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "sync", syncing)
        patch.setattr(kept, "save_arrays", saving)
        with pytest.raises(BaseVideoIsWhole):
            making.make(on_step=lambda run: look() if run.finished() else None)
    assert len(moments) == 2 * 3 + 1  # half written, whole, renamed; noted, at the step of the second chunk
    for moment in moments:
        again = Making(making.session, moment)
        before = len(again.files)
        with pytest.raises(BaseVideoIsWhole):
            again.make()
        assert [chunk for chunk, _ in again.shown] == [0, 1]
        assert {chunk for chunk, _ in again.told} == {*range(before, 2)}
        assert again.files == whole


@pytest.mark.parametrize("number", [0, 1])
def test_a_full_disk_is_told_of_at_the_first_step_after_it(
    number: int, making: Making, whole: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(path: Path) -> None:
        if UNITS[number] in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(runs, "sync", sync)
        with pytest.raises(StoppedError, match=r"the disk that holds .* is full"):
            making.make()
    assert {chunk for chunk, _ in making.told} == {*range(number + 1)}
    assert list(making.files) == UNITS[:number]
    with pytest.raises(BaseVideoIsWhole):
        making.make()
    assert making.files == whole


@pytest.mark.parametrize("error", [StopEarly, StoppedError])
def test_no_step_is_begun_after_the_chunk_at_which_the_user_stops(error: type[Exception], making: Making) -> None:
    """And that chunk is kept."""

    def stop(unit: str) -> None:
        if unit == UNITS[0]:
            raise error

    with pytest.raises(error):
        making.make(on_unit=stop)
    assert {chunk for chunk, _ in making.told} == {0}
    assert list(making.files) == UNITS[:1]
    assert [chunk for chunk, _ in making.shown] == [0]
