"""A directory that appears under its name only when whole."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.manifest import MANIFEST


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory` that takes its place when the block is left without an error.

    Otherwise it is removed, on Ctrl-C too, and what was at `directory` stays. Raises UsageError when something that is
    no engine set is there, ExportError when nothing can be written.
    """
    if directory.exists() and not _replaceable(directory):
        raise UsageError(f"{directory}: is in use and not an engine set, it is not replaced; choose another directory")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            yield stage
            _install(stage, directory)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as exc:
        raise ExportError(
            f"engine set {directory} cannot be written: {exc}; check the path and the free space"
        ) from exc


def _replaceable(directory: Path) -> bool:
    return directory.is_dir() and ((directory / MANIFEST).is_file() or not any(directory.iterdir()))


def _install(stage: Path, directory: Path) -> None:
    """Put `stage` in the place of `directory`; a full directory cannot be renamed over, so the old one steps aside."""
    if not directory.exists():
        stage.rename(directory)
        return
    old = stage.with_name(f"{stage.name}-old")
    directory.rename(old)
    try:
        stage.rename(directory)
    except BaseException:
        old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
