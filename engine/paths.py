"""Paths that a user gave. For a name that no file can have `pathlib` raises; to us nothing is there."""

import os
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether a regular file is there: no folder, and no pipe or device, which could be read for ever."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Whether a folder is there."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """Whether anything is there."""
    return os.path.exists(path)  # noqa: PTH110


def real(path: Path) -> Path:
    """The path without links, as far as they lead anywhere."""
    return Path(os.path.realpath(path))


def for_ffmpeg(path: Path) -> str:
    """The path as FFmpeg takes it: a relative one such as `10:30.mp4` it would read as an address of the web."""
    return str(path.absolute())
