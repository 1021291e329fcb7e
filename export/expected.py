"""Progress that knows how long things take: adds to each step what is expected, and speaks while one takes long."""

import threading
import time
from collections.abc import Mapping
from typing import Self

from stt2v.engine.duration import in_time
from stt2v.engine.progress import Progress

BEAT = 10.0
"""Seconds after which it is told again that a graph is still being worked on."""


class ExpectedProgress:
    """Passes everything on to `progress`; of a graph in the making it says what it takes and what is left of all.

    `seconds`: graph -> how long it should take, or None. To be used as a context manager, for the thread that speaks.
    """

    def __init__(self, progress: Progress, seconds: Mapping[str, float | None], beat: float = BEAT) -> None:
        self._progress, self._left, self._beat = progress, dict(seconds), beat
        self._running: dict[str, tuple[float, object]] = {}
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def stage(self, name: str, total: int) -> None:
        """Passed on."""
        self._progress.stage(name, total)

    def note(self, line: str) -> None:
        """Passed on."""
        with self._lock:
            self._progress.note(line)

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """Passed on with what is expected; a graph that moves its stage on is done."""
        with self._lock:
            graph = info.get("graph")
            if isinstance(graph, str) and graph in self._left:
                began, _ = self._running.pop(graph, (time.monotonic(), None))
                if steps:
                    del self._left[graph]
                else:
                    self._running[graph] = began, info.get("phase")
            self._progress.advance(name, steps, **info, **self._expected(graph))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _expected(self, graph: object) -> dict[str, str]:
        words: dict[str, str] = {}
        if isinstance(graph, str) and (whole := self._left.get(graph)) is not None:
            words["of"] = in_time(whole)
        known = [seconds for seconds in self._left.values() if seconds is not None]
        if known:
            gone = sum(time.monotonic() - began for began, _ in self._running.values())
            words["left"] = in_time(max(0.0, sum(known) - gone))
        return words

    def _speak(self) -> None:
        while not self._ended.wait(self._beat):
            with self._lock:
                for graph, (began, phase) in self._running.items():
                    seconds = time.monotonic() - began
                    self._progress.advance(
                        "build", 0, graph=graph, phase=phase, seconds=seconds, **self._expected(graph)
                    )
