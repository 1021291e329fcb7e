"""A video that can be watched while it grows."""

from pathlib import Path
from types import TracebackType
from typing import Self

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError
from stt2v.engine.media.video import add_stream, check_output, encodable


class Preview:
    """A fragmented MP4 that players and browsers open while it grows: every frame is a fragment of its own.

    Unlike a `VideoWriter` it writes under its own name from the start, and what it has written stays, whatever
    happens: each fragment is whole. The encoder looks at no later frame, so a frame is in the file when the next one
    comes. Sizes are even. Raises OutputError, or UsageError for a name that is no MP4.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        import av

        check_output(path)
        self.path = path
        self.frames = 0
        flags = {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"}
        try:
            self._container = av.open(str(path), "w", format="mp4", options=flags)
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        options = {"crf": "23", "preset": "veryfast", "tune": "zerolatency"}
        self._stream = add_stream(self._container, width, height, fps, options)

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
        self._container.close()

    def _failure(self, error: Exception) -> OutputError:
        return OutputError(f"preview {self.path} cannot be written ({error}); free the disk or choose another place")
