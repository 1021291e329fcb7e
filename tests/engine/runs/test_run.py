"""Runs and their journals: what counts as finished after a crash, a torn line, a changed file, a full disk."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import pytest

from stt2v.engine.errors import OutputError, StoppedError, UsageError
from stt2v.engine.runs import run as runs
from stt2v.engine.runs.journal import Entry, Journal
from stt2v.engine.runs.run import Run
from stt2v.engine.runs.states import ArrayFile, RunKeeper
from stt2v.engine.stages.keeper import Keeper
from stt2v.engine.stages.windows import State

SHAPE = (1, 1, 2, 3)


def keep(run: Run, unit: str, text: str) -> None:
    with run.writing(unit) as path:
        path.write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path) as opened:
        yield opened


def test_a_unit_is_finished_when_its_block_ends(run: Run) -> None:
    with run.writing("a/one") as path:
        path.write_text("half")
        assert not run.has("a/one")
        assert not run.path("a/one").exists()
    assert run.has("a/one")
    assert run.path("a/one").read_text() == "half"
    assert run.finished("a/") == ["a/one"]


def test_a_unit_that_failed_leaves_nothing(run: Run) -> None:
    def fail() -> None:
        with run.writing("one") as path:
            path.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not run.has("one")
    assert sorted(path.name for path in run.directory.iterdir()) == ["journal", "lock"]


def test_units_are_there_when_a_run_is_opened_again(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        keep(run, "one", "1")
        keep(run, "two", "2")
        keep(run, "three", "3")
        run.drop("two")
    (tmp_path / "three").write_text("4")
    (tmp_path / ".part-four").write_text("left by a process that was killed")
    with Run(tmp_path) as run:
        assert run.finished() == ["one"]
        keep(run, "three", "5")
    with Run(tmp_path) as run:
        assert run.finished() == ["one", "three"]
    assert not (tmp_path / ".part-four").exists()


def test_only_one_process_works_on_a_run(run: Run) -> None:
    with pytest.raises(UsageError, match="another process"):
        Run(run.directory)


def test_where_a_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OutputError, match=r"has no locks \(No locks available\); choose"):
        Run(tmp_path)


def test_units_are_shared_between_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    keep(run, "one", "1")
    with Run(tmp_path / "other") as other:
        other.adopt("one", run)
        assert other.has("one")
        assert other.path("one").samefile(run.path("one"))


@pytest.mark.parametrize("torn", [b"", b'{"unit": "thr', b'{"unit": "three"}\n', b"\0\0\0\n", b"[1]\n", b"\xff\n"])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    entries = [Entry("one", "a", 1), Entry("two", "b", 2)]
    journal = Journal(path)
    for entry in entries:
        journal.append(entry)
    with path.open("ab") as file:
        file.write(torn)
    journal = Journal(path)
    assert list(journal.entries.values()) == entries
    journal.append(Entry("three", "c", 3))
    assert list(Journal(path).entries) == ["one", "two", "three"]


def test_a_full_disk_pauses_the_run_and_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    keep(run, "one", "1")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "sync", full)
        with pytest.raises(StoppedError, match="full"):
            keep(run, "two", "2")
    assert run.finished() == ["one"]
    keep(run, "two", "2")
    assert run.finished() == ["one", "two"]


def test_whoever_watches_hears_of_every_unit(run: Run) -> None:
    heard: list[str] = []
    run.on_unit = heard.append
    keep(run, "one", "1")
    keep(run, "two", "2")
    assert heard == ["one", "two"]


def test_an_array_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "array"
    path.write_bytes(bytes(8 + 5 * 6 * 4))
    array = ArrayFile(path, (5, 2, 3), offset=8)
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    array[3:] = values
    array[0:1] = values[:1]
    assert len(array) == 5
    np.testing.assert_array_equal(array[3:5], values)
    np.testing.assert_array_equal(array[:2], [values[0], np.zeros((2, 3))])
    assert path.read_bytes()[:8] == bytes(8)


def test_the_last_state_of_each_pass_is_kept(run: Run) -> None:
    keeper, shape = RunKeeper(run, "8-frames"), (3, 1, 2, 2)
    assert keeper.last(0, shape) is None
    for number in (0, 1):
        for steps in range(3):
            with keeper.state(number, steps, shape) as state:
                state.latents[0:3] = np.full(shape, steps, np.float32)
                state.clean[1:2] = np.full((1, *shape[1:]), -steps, np.float32)
    assert run.finished("8-frames/") == ["8-frames/pass-0-step-0002.f32", "8-frames/pass-1-step-0002.f32"]
    steps, state = keeper.last(1, shape) or (0, None)
    assert steps == 2
    assert state is not None
    assert (state.latents[0:3] == 2).all()
    assert (state.clean[1:2] == -2).all()


def fill(keeper: Keeper, steps: int) -> State:
    with keeper.state(0, steps, SHAPE) as state:
        state.latents[0:1] = np.full(SHAPE, steps, np.float32)
    return state


def test_the_next_state_is_made_while_one_waits_for_the_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be read, and does not count as kept."""
    synced = threading.Event()
    monkeypatch.setattr(runs, "sync", lambda path: synced.wait(30))
    kept = RunKeeper(run, "8-frames")
    with kept.behind() as keeper:
        state = fill(keeper, 0)
        with keeper.state(0, 1, SHAPE) as after:
            after.latents[0:1] = state.latents[0:1] + 1
            assert (after.latents[0:1] == 1).all()
            assert kept.last(0, SHAPE) is None
            synced.set()
        fill(keeper, 2)
    assert run.finished() == ["8-frames/pass-0-step-0002.f32"]
    assert [path.name for path in (run.directory / "8-frames").iterdir()] == ["pass-0-step-0002.f32"]


def test_at_most_one_state_waits_for_the_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before the last is kept when a state is filled."""
    monkeypatch.setattr(runs, "sync", lambda path: time.sleep(0.01))
    with RunKeeper(run, "8-frames").behind() as keeper:
        for steps in range(5):
            fill(keeper, steps)
            if steps:
                assert run.finished()[0] >= f"8-frames/pass-0-step-{steps - 1:04}.f32"


def test_a_state_that_could_not_be_kept_ends_the_next_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was kept before is what is gone on from."""
    keeper, full = RunKeeper(run, "8-frames"), OSError(errno.ENOSPC, "full")

    def sync(path: Path) -> None:
        if path.name == "pass-0-step-0001.f32":
            raise full

    def steps() -> None:
        with keeper.behind() as late:
            for number in range(9):
                fill(late, number)
                made.append(number)

    monkeypatch.setattr(runs, "sync", sync)
    made: list[int] = []
    with pytest.raises(StoppedError, match="is full"):
        steps()
    assert made == [0, 1]
    done, state = keeper.last(0, SHAPE) or (None, None)
    assert done == 0
    assert state is not None
    assert (state.latents[0:1] == 0).all()
    assert [path.name for path in (run.directory / "8-frames").iterdir()] == ["pass-0-step-0000.f32"]


def test_a_state_that_was_filled_is_kept_when_the_user_stops_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next step is not begun."""
    begun: list[int] = []

    def stop(unit: str) -> None:
        if "step-0001" in unit:
            raise StoppedError("as asked")

    def steps() -> None:
        with RunKeeper(run, "8-frames").behind() as keeper:
            for number in range(9):
                begun.append(number)
                fill(keeper, number)

    monkeypatch.setattr(runs, "sync", lambda path: time.sleep(0.01))
    run.on_unit = stop
    with pytest.raises(StoppedError, match="as asked"):
        steps()
    assert begun == [0, 1]
    assert run.finished() == ["8-frames/pass-0-step-0001.f32"]


@pytest.mark.parametrize("written", [b"", b"half", bytes(48)])
def test_a_state_counts_only_when_it_is_noted(run: Run, written: bytes, tmp_path: Path) -> None:
    """A process that was killed may leave it in any form: the run goes on from the one before."""
    fill(RunKeeper(run, "8-frames"), 0)
    run.close()
    (tmp_path / "8-frames" / "pass-0-step-0001.f32").write_bytes(written)
    with Run(tmp_path) as again:
        keeper = RunKeeper(again, "8-frames")
        assert (keeper.last(0, SHAPE) or (None,))[0] == 0
        fill(keeper, 1)
        assert (keeper.last(0, SHAPE) or (None,))[0] == 1
        assert again.path("8-frames/pass-0-step-0001.f32").stat().st_size == 2 * 4 * prod(SHAPE)


def test_a_state_that_failed_leaves_nothing(run: Run) -> None:
    def fail() -> None:
        with RunKeeper(run, "8-frames").behind() as keeper, keeper.state(0, 0, SHAPE):
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert not list((run.directory / "8-frames").iterdir())


def test_conditions_are_made_once(run: Run) -> None:
    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"context": np.arange(6.0).reshape(2, 3)}

    for _ in range(2):
        kept = RunKeeper(run, "8-frames").conditions(0, 3, make)
        np.testing.assert_array_equal(kept["context"], np.arange(6.0).reshape(2, 3))
    assert len(made) == 1
