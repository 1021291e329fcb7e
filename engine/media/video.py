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
from stt2v.engine.paths import is_folder

if TYPE_CHECKING:
    from av import VideoFrame
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
            self._stream = add_stream(self._container, width, height, fps, {"crf": QUALITY, "preset": "medium"})
        except Exception:
            self._temporary.unlink()
            raise

    def _open(self, metadata: Mapping[str, str]) -> "OutputContainer":
        import av

        container = av.open(str(self._temporary), "w", options={"movflags": "+faststart"})
        container.metadata.update(metadata)
        return container

    def write(self, frames: Frames) -> None:
        """Append frames: [n, H, W, 3], uint8. Raises OutputError."""
        import av

        try:
            for pixels in frames:
                picture = encodable(pixels)
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


def add_stream(
    container: "OutputContainer", width: int, height: int, fps: float, options: dict[str, str]
) -> "VideoStream":
    """A stream of H.264 in `container`: yuv420p, BT.709; options: the encoder's."""
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.thread_count = THREADS
    context = stream.codec_context
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def encodable(pixels: Frames) -> "VideoFrame":
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
