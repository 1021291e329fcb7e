"""Writing frames to an MP4 that plays everywhere and appears only when it is whole."""

import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError, UsageError

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# x264 makes other bits with another number of threads; a fixed one makes files comparable between machines.
THREADS = 4
QUALITY = "17"
LONGEST_NAME = 255  # bytes, on every file system of Linux


class VideoWriter:
    """An H.264 MP4 (yuv420p, BT.709) of `width`x`height` pixels (both even) at `fps` frames a second.

    Opens its file at once, so that a place that cannot be written is known before any work, under a temporary name
    beside `path`; the file takes its name when the writer is left without an error and is removed otherwise.
    Raises OutputError, or UsageError for a name that is no MP4.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float, metadata: Mapping[str, str]) -> None:
        check_output(path)
        self.path = path
        self.frames = 0
        try:
            handle, name = tempfile.mkstemp(prefix=".stt2v-", suffix=".part.mp4", dir=path.parent)
        except OSError as error:
            raise self._failure(error) from error
        os.close(handle)
        self._temporary = Path(name)
        try:
            self._container = self._open(metadata)
            self._stream = self._add_stream(width, height, Fraction(fps).limit_denominator(1001))
        except Exception:
            self._temporary.unlink()
            raise

    def _open(self, metadata: Mapping[str, str]) -> "OutputContainer":
        import av

        container = av.open(str(self._temporary), "w", options={"movflags": "+faststart"})
        container.metadata.update(metadata)
        return container

    def _add_stream(self, width: int, height: int, rate: Fraction) -> "VideoStream":
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

        stream = self._container.add_stream("libx264", rate=rate, options={"crf": QUALITY, "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = THREADS
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        return stream

    def write(self, frames: Frames) -> None:
        """Append frames: [n, H, W, 3], uint8. Raises OutputError."""
        import av
        from av.video.reformatter import ColorRange, Colorspace

        try:
            for pixels in frames:
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                picture.pts = self.frames
                self.frames += 1
                self._container.mux(self._stream.encode(picture))
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(whole=error is None)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _close(self, whole: bool) -> None:
        import av

        try:
            if whole:
                self._container.mux(self._stream.encode())
            self._container.close()
            if whole:
                self._temporary.chmod(0o666 & ~_umask())
                self._temporary.replace(self.path)
        except (av.FFmpegError, OSError) as failure:
            if whole:
                raise self._failure(failure) from failure

    def _failure(self, error: Exception) -> OutputError:
        return OutputError(f"video {self.path} cannot be written ({error}); free the disk or choose another place")


def check_output(path: Path) -> None:
    """Raise unless an MP4 can be made at `path`."""
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"output is {path}, expected a file name that ends in .mp4")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UsageError(f"name of the output is {len(os.fsencode(path.name))} bytes long, at most {LONGEST_NAME} fit")
    if path.is_dir():
        raise UsageError(f"output {path} is a folder, expected the name of an MP4 file")
    if not path.parent.is_dir():
        raise OutputError(f"folder {path.parent} of the output does not exist; create it or choose another")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"folder {path.parent} of the output is not writable; choose another with --output")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
