"""Files that appear under their name only when they are whole."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stt2v.engine.errors import OutputError
from stt2v.engine.paths import is_file

PREFIX, PART = ".stt2v-", ".part"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name when the block ends without an error, else is removed.

    What killed processes left there is removed, too. Raises OutputError for a place that cannot be written.
    """
    try:
        remove_left(path.parent)
        handle, temporary = _temporary(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def remove_left(folder: Path) -> None:
    """Remove the temporary files in `folder` that no process holds any more."""
    for path in folder.glob(f"{PREFIX}*{PART}*"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, held until its handle is closed; again where another process removed it before that."""
    while True:
        handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=f"{PART}{path.suffix}", dir=path.parent)
        with suppress(OSError):  # of a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if is_file(Path(name)):
            return handle, Path(name)
        os.close(handle)


def check_place(path: Path) -> None:
    """Raise OutputError unless a file can be made beside `path`; nothing stays there."""
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> OutputError:
    """The error of a file that cannot be written."""
    return OutputError(f"{path} cannot be written ({error}); free the disk or choose another place")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
