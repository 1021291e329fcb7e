"""A run: a directory with one file for each finished unit, and the journal that says which ones are finished."""

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stt2v.engine.backends.base import Closing
from stt2v.engine.errors import OutputError, StoppedError, UsageError
from stt2v.engine.manifest import hash_file
from stt2v.engine.media.whole import sync
from stt2v.engine.runs.journal import Entry, Journal

JOURNAL, LOCK, PART = "journal", "lock", ".part-"
FULL = (errno.ENOSPC, errno.EDQUOT)


def unwatched(unit: str) -> None:
    """Who hears of units when nobody asks."""


class Run(Closing):
    """The units of one run. Units are named by their file, relative to `directory`.

    Only one process works on a run: it holds a lock from here until `close`. With `shared` it only takes units over,
    as others may at the same time. Units whose file is missing or was changed count as not finished. Several threads
    may make units at once. `on_unit` is called after each one that is finished or that a thread is about to finish, and
    may stop the run by raising.

    Raises UsageError when another process works on the run.
    """

    def __init__(self, directory: Path, shared: bool = False) -> None:
        self.directory = directory
        self.on_unit: Callable[[str], None] = unwatched
        self._noting = threading.Lock()
        self._lock = locked(directory / LOCK, f"run {directory}", shared)
        for left in directory.rglob(f"{PART}*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with pausing(directory):
            self._journal = Journal(directory / JOURNAL)
        self._finished = {unit for unit, entry in self._journal.entries.items() if self._is_intact(entry)}

    def has(self, unit: str) -> bool:
        """Whether `unit` is finished."""
        return unit in self._finished

    def finished(self, prefix: str = "") -> list[str]:
        """The finished units whose names begin with `prefix`, sorted."""
        with self._noting:
            return sorted(unit for unit in self._finished if unit.startswith(prefix))

    def path(self, unit: str) -> Path:
        """The file of `unit`."""
        return self.directory / unit

    @contextmanager
    def writing(self, unit: str) -> Iterator[Path]:
        """A temporary file in which to make `unit`; when the block ends without an error, the unit is finished.

        It is on disk by then. Raises StoppedError when the disk is full; nothing half-written stays.
        """
        with self.making(unit) as path:
            yield path
        self.on_unit(unit)

    @contextmanager
    def making(self, unit: str) -> Iterator[Path]:
        """As `writing`, but nobody hears of it: for a thread that is not the one to be stopped."""
        path = self.path(unit)
        temporary = path.with_name(f"{PART}{path.name}")
        with pausing(self.directory):
            path.parent.mkdir(exist_ok=True)
            try:
                yield temporary
                sync(temporary)
                temporary.replace(path)
                sync(path.parent)
                self._note(unit)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def filling(self, unit: str) -> Iterator[Path]:
        """The file of `unit` itself, to fill, and to be read from then on; what `finish` finishes later.

        Raises StoppedError when the disk is full; nothing stays of a block that fails, and nothing counts of one that
        was killed. Who fills it calls `on_unit`, once something will finish it.
        """
        path = self.path(unit)
        with pausing(self.directory), _whole(path):
            path.parent.mkdir(exist_ok=True)
            yield path

    def finish(self, unit: str) -> None:
        """Wait until a filled unit is on disk; it is finished then.

        Raises StoppedError when the disk is full; nothing stays of a unit that could not be finished.
        """
        path = self.path(unit)
        with pausing(self.directory), _whole(path):
            sync(path)
            sync(path.parent)
            self._note(unit)

    def adopt(self, unit: str, other: "Run") -> None:
        """Take over `unit` of another run as the same file: a link where the file system has links, else a copy.

        It was finished there, so `on_unit` is not called.
        """
        try:
            os.link(other.path(unit), self.path(unit))
        except OSError:
            with self.making(unit) as path:
                shutil.copyfile(other.path(unit), path)
            return
        with pausing(self.directory):
            sync(self.directory)
            self._note(unit)

    def drop(self, unit: str) -> None:
        """Remove a unit that another one has made needless."""
        with self._noting:
            self._finished.discard(unit)
        self.path(unit).unlink(missing_ok=True)

    def close(self) -> None:
        """Let other processes have the run."""
        self._lock.close()

    def _note(self, unit: str) -> None:
        path = self.path(unit)
        entry = Entry(unit, hash_file(path), path.stat().st_size)
        with self._noting:
            self._journal.append(entry)
            self._finished.add(unit)

    def _is_intact(self, entry: Entry) -> bool:
        path = self.path(entry.unit)
        return path.is_file() and path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Remove what is at `path` where the block fails."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def scratch_run() -> Iterator[Run]:
    """A run in a temporary folder, for videos that nobody resumes; it is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="stt2v-") as name, Run(Path(name)) as run:
        yield run


def locked(path: Path, what: str, shared: bool = False) -> IO[bytes]:
    """A lock on the file `path`, which is made where it is missing, until it is closed; shared with others like it.

    Raises UsageError when another process holds it, OutputError where there are no locks, OSError.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"{what} is being worked on by another process; wait for it or stop it") from None
    except OSError as error:
        file.close()
        raise OutputError(
            f"{what} cannot be locked, its file system has no locks ({error.strerror}); choose a place on another one"
        ) from error
    return file


@contextmanager
def pausing(place: Path) -> Iterator[None]:
    """Turn a full disk, also behind one of our own errors, into a pause of the run."""
    try:
        yield
    except Exception as error:
        if any(getattr(cause, "errno", None) in FULL for cause in (error, error.__cause__)):
            raise StoppedError(
                f"the disk that holds {place} is full; free some of it (`stt2v runs prune`) and resume"
            ) from error
        raise
