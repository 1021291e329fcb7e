"""Files that appear under their name only when they are whole."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from stt2v.engine.errors import OutputError
from stt2v.engine.paths import is_file, real

PREFIX, PART = ".stt2v-", ".part"


@contextmanager
def whole_file(path: Path, follow_links: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` to fill, which takes its name when the block ends without an error, or goes.

    Where `path` is a link, that is what it leads to, and the link stays, or with `follow_links` false the link itself.
    It is on disk before it has the name. What killed processes left there is removed, too. Raises OutputError for a
    place that cannot be written.
    """
    place = real(path) if follow_links else path
    try:
        remove_left(place.parent)
        handle, temporary = _temporary(place)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        os.fsync(handle)
        temporary.replace(place)
        with suppress(OSError):  # of a file system that does not sync folders
            sync(place.parent)
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
    """A new file beside `path`, held until its handle is closed; again where another process removed it before that.

    It has the rights of any new file, which only the system can give: to ask for them (umask) would change them for all
    threads meanwhile.
    """
    while True:
        temporary = path.with_name(f"{PREFIX}{token_hex(8)}{PART}{path.suffix}")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # of a file system that knows no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if is_file(temporary):
            return handle, temporary
        os.close(handle)


def check_place(path: Path) -> None:
    """Raise OutputError unless a file can be made beside `path`; nothing stays there."""
    try:
        tempfile.TemporaryFile(dir=real(path).parent).close()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> OutputError:
    """The error of a file that cannot be written."""
    return OutputError(f"{path} cannot be written ({error}); free the disk or choose another place")


def sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
