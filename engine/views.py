"""What can be looked at while a video is made: a preview and a contact sheet of the base video."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import OutputError
from stt2v.engine.media.contact_sheet import ContactSheet
from stt2v.engine.media.video import LIVE, VideoWriter
from stt2v.engine.pipeline import OnBase, unseen
from stt2v.engine.progress import Progress


class View(Protocol):
    """Shows frames as they come."""

    def write(self, frames: Frames) -> None:
        """frames: [n, H, W, 3], uint8. Raises OutputError."""
        ...


@dataclass(frozen=True)
class Views:
    """Where the views of a run go; None where there is none."""

    preview: Path | None = None
    contact_sheet: Path | None = None

    @contextmanager
    def opened(self, width: int, height: int, fps: float, progress: Progress) -> Iterator[OnBase]:
        """What shows base frames of that size and rate. Raises UsageError, or OutputError for an unusable place."""
        with ExitStack() as stack:
            views: list[View] = []
            if self.preview:
                views.append(stack.enter_context(VideoWriter(self.preview, width, height, fps, {}, LIVE)))
            if self.contact_sheet:
                views.append(ContactSheet(self.contact_sheet))
            yield Shown(views, progress) if views else unseen


NO_VIEWS = Views()


class Shown:
    """Shows each chunk in all views; one that fails is told of and left out, and the run goes on."""

    def __init__(self, views: list[View], progress: Progress) -> None:
        self._views = views
        self._progress = progress
        self._next = 0

    def __call__(self, chunk: int, frames: Frames) -> None:
        """frames: of chunk number `chunk`, [n, H, W, 3], uint8; chunks that were shown before are not shown again."""
        if chunk < self._next:
            return
        self._next = chunk + 1
        for view in list(self._views):
            try:
                view.write(frames)
            except OutputError as error:
                self._views.remove(view)
                self._progress.note(f"{error}; the video goes on without it")
