"""Writing frames to an MP4 that plays everywhere."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError, UsageError
from stt2v.engine.media.whole import unwritable
from stt2v.engine.paths import for_ffmpeg, is_folder

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

QUALITY = "17"
REORDERED = 2  # pictures that may wait for later ones to be decoded, with the preset in use
AHEAD = 16
"""Frames that may wait to be encoded. x264 does much of a segment when it ends, and meanwhile others are made."""
HELD = 260  # bytes a pixel that x264 holds, in frames that it looks ahead to and is at work on; 220 MiB at 1280x720
LONGEST_NAME = 255  # bytes, on every file system of Linux


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded and put into the file: options of x264, its threads and what each has, and options of the
    MP4. x264 makes other bits with another number of threads; a fixed one makes files comparable between machines."""

    x264: Mapping[str, str]
    threads: int
    share: Literal["FRAME", "SLICE"]
    mp4: Mapping[str, str]


FINAL = Encoding({"crf": QUALITY, "preset": "medium", "rc-lookahead": "10"}, 12, "FRAME", {"movflags": "+faststart"})
"""For a file that is made fast: threads that share a frame wait for each other, and cost up to 9 % more bytes; and of a
segment, x264 would begin few frames before its end if it looked 40 ahead, as the preset does."""
LIVE = Encoding(
    {"crf": "23", "preset": "veryfast", "tune": "zerolatency"},
    8,
    "SLICE",
    {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
)
"""For a video that players and browsers open while it grows: every frame is a fragment of its own, and in the file when
the next one comes, because the encoder looks at no later frame."""


class VideoWriter:
    """An H.264 MP4 (yuv420p, BT.709) at `path`, of `width`x`height` pixels (both even) at `fps` frames a second.

    The file is whole when the writer is left without an error, and the same frames make the same bytes. Raises
    OutputError, or UsageError for a name that is no MP4.
    """

    def __init__(
        self, path: Path, width: int, height: int, fps: float, metadata: Mapping[str, str], how: Encoding = FINAL
    ) -> None:
        import av

        check_output(path)
        self.path = path
        self.frames = 0
        try:
            self._container = av.open(for_ffmpeg(path), "w", options=dict(how.mp4))
        except (av.FFmpegError, OSError) as error:
            raise unwritable(path, error) from error
        self._container.metadata.update(metadata)
        self._stream = _stream(self._container, width, height, fps, how)

    def write(self, frames: Iterable[Frames]) -> None:
        """Append frames: [H, W, 3], uint8 each, or a block of them. Raises OutputError."""
        import av

        try:
            for pixels in frames:
                picture = _encodable(pixels)
                picture.pts = self.frames
                self.frames += 1
                self._container.mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise unwritable(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import av

        try:
            if error is None:
                self._container.mux(self._stream.encode())
            self._container.close()
        except (av.FFmpegError, OSError) as failure:
            if error is None:
                raise unwritable(self.path, failure) from failure


def encoding_bytes(width: int, height: int) -> int:
    """The memory of frames of that size that wait, and of the encoder."""
    return (3 * AHEAD + HELD) * width * height


def frame_rate(fps: float) -> Fraction:
    """`fps` as files say it."""
    return Fraction(fps).limit_denominator(1001)


def _stream(container: "OutputContainer", width: int, height: int, fps: float, how: Encoding) -> "VideoStream":
    """A stream of H.264 in `container`: yuv420p, BT.709."""
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    stream = container.add_stream("libx264", rate=frame_rate(fps), options=dict(how.x264))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.thread_count, stream.thread_type = how.threads, how.share
    context = stream.codec_context
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _encodable(pixels: Frames) -> "VideoFrame":
    """pixels: [H, W, 3], uint8 -> the picture that such a stream takes."""
    import av
    from av.video.reformatter import ColorRange, Colorspace

    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )


def check_output(path: Path, *suffixes: str) -> None:
    """Raise unless a file with one of `suffixes`, by default an MP4, can be made at `path`."""
    suffixes = suffixes or (".mp4",)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"output is {path}, expected a file name that ends in {' or '.join(suffixes)}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UsageError(f"name of the output is {len(os.fsencode(path.name))} bytes long, at most {LONGEST_NAME} fit")
    if is_folder(path):
        raise UsageError(f"output {path} is a folder, expected the name of a file")
    if not is_folder(path.parent):
        raise OutputError(f"folder {path.parent} of the output does not exist; create it or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"folder {path.parent} of the output is not writable; choose another with --output")
