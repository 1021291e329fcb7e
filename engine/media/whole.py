"""Files that appear under their name only when they are whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stt2v.engine.errors import OutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name when the block ends without an error, else is removed.

    Raises OutputError for a place that cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".stt2v-", suffix=f".part{path.suffix}", dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


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
