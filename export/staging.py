"""A directory that appears under its name only when whole, in one step.

What a stopped build has finished stays beside it, `.NAME-XXXXXXXX`, for the next build to go on from.
"""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.manifest import MANIFEST
from stt2v.engine.store import leftovers
from stt2v.export.card import LOCK
from stt2v.export.journal import JOURNAL

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory` that takes its place when the block is left without an error.

    Otherwise what was at `directory` stays, and so does the new one if it has a journal of what is finished.
    Raises UsageError when something that is no engine set is there, ExportError when nothing can be written.
    """
    if directory.exists() and not _replaceable(directory):
        raise UsageError(f"{directory}: is in use and not an engine set, it is not replaced; choose another directory")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            yield stage
            install(stage, directory)
            remove_leftovers(directory)
        finally:
            if not (stage / JOURNAL).is_file():
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as exc:
        raise ExportError(
            f"engine set {directory} cannot be written: {exc}; check the path and the free space"
        ) from exc


def remove_leftovers(directory: Path, keep: Path | None = None) -> None:
    """Remove what stopped builds of `directory` left, except `keep`."""
    for folder in leftovers(directory):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _replaceable(directory: Path) -> bool:
    return directory.is_dir() and ((directory / MANIFEST).is_file() or not any(directory.iterdir()))


def install(stage: Path, directory: Path) -> None:
    """Give the whole set in `stage` its name; what had it is removed. At every moment there is one or the other."""
    for name in (JOURNAL, LOCK):  # of the build alone
        (stage / name).unlink(missing_ok=True)
    if not directory.exists():
        stage.rename(directory)
        return
    old = stage if _exchanged(stage, directory) else _stepped_aside(stage, directory)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two directories change names in one step, where the file system can: one cannot be renamed over another."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    if failed and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    return not failed


def _stepped_aside(stage: Path, directory: Path) -> Path:
    """Rename one after the other; where the old set is then. Killed in between, the next build finds both."""
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    directory.rename(old)  # over the empty one
    stage.rename(directory)
    return old
