"""Ctrl-C and SIGTERM while a video is made: once ends it early, twice stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from stt2v.engine.errors import StoppedError
from stt2v.engine.progress import Progress
from stt2v.engine.runs.chunks import CHUNK
from stt2v.engine.runs.record import VIDEO

OnInterrupt = Literal["finish", "save"]

WORDS = {
    "finish": "no further chunk is begun, the video is finished with those there are; once more stops at once",
    "save": "stopping after this unit; once more stops at once",
}


class StopEarly(Exception):
    """The video is to end with the chunks that there are."""


class Interrupt:
    """What the user wants when it interrupts: a shorter video ("finish"), or the run only ("save")."""

    def __init__(self, how: OnInterrupt) -> None:
        self._how = how
        self._asked = False
        self._told = False
        self._ending = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take both signals over, where this is the thread that gets them; a second one does what one did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def on_signal(number: int, frame: FrameType | None) -> None:
            """Without writing: the signal may have come in the middle of a line of progress."""
            handler = before[signal.Signals(number)]
            if self._asked and callable(handler):
                handler(number, frame)
            self._asked = True

        for number in before:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_unit(self, unit: str) -> None:
        """To be called after each unit, finished or about to be.

        Raises StopEarly after a chunk, StoppedError when it is to save. The last unit says that the video is
        there: nothing is left to stop.
        """
        if not self._asked or unit == VIDEO:
            return
        if self._how == "save":
            raise StoppedError("stopped after a finished unit, as asked")
        if unit.startswith(CHUNK) and not self._ending:
            self._ending = True
            raise StopEarly

    def check(self) -> None:
        """Raise StoppedError when nothing more is to begin."""
        if self._asked:
            raise StoppedError("stopped before the next video, as asked")

    def watched(self, progress: Progress) -> Progress:
        """`progress`, which also says, once, that the interrupt was heard."""
        return _Watched(progress, self)

    def tell(self, progress: Progress) -> None:
        """Say it, if there is something to say."""
        if self._asked and not self._told:
            self._told = True
            progress.note(WORDS[self._how])


class _Watched:
    """Tells of an interrupt with the next step."""

    def __init__(self, progress: Progress, interrupt: Interrupt) -> None:
        self.stage = progress.stage
        self.note = progress.note
        self._progress = progress
        self._interrupt = interrupt

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        self._progress.advance(name, steps, **info)
        self._interrupt.tell(self._progress)
