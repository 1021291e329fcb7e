"""Reading the frames of a video file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import InputError
from stt2v.engine.paths import exists, for_ffmpeg, is_file

if TYPE_CHECKING:
    from av.container import InputContainer


def read_frames(path: Path) -> Iterator[Frames]:
    """The frames of the first video stream in their order, one at a time: [H, W, 3], uint8.

    Raises InputError for what is no video, when the first frame is taken or where the file breaks off.
    """
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def count_frames(path: Path) -> int:
    """How many frames a video has by its packets, without decoding them. Raises InputError."""
    with _opened(path) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def read_comment(path: Path) -> str:
    """The comment that a video carries, "" when there is none. Raises InputError."""
    with _opened(path) as container:
        return container.metadata.get("comment", "")


@contextmanager
def _opened(path: Path) -> Iterator["InputContainer"]:
    import av

    if not is_file(path):
        raise InputError(f"video {path} is {'no file' if exists(path) else 'not there'}; give the path of a video")
    try:
        with av.open(for_ffmpeg(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise InputError(f"file {path} has no pictures, only {_kinds(container)}; give a video")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"file {path} cannot be read as a video ({error.strerror}); give another, such as an MP4"
        ) from error


def _kinds(container: "InputContainer") -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "an empty shell"
