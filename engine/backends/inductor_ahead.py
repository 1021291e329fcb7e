"""Engines that are loaded before they are asked for, by a thread, while others run."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Generic, TypeVar

from stt2v.engine.backends.base import Engine
from stt2v.engine.spec import EngineSpec

ALONE = RLock()
"""Held by who loads an engine, runs it for the first time or records it: these change what is of the whole process."""

Loaded = TypeVar("Loaded", bound=Engine)


class LoadsAhead(Generic[Loaded]):
    """Engines that are expected, one after the other: a load begins when an engine that runs on has been told to.

    So at most one is being loaded when another is to run for the first time, which has to wait for that.
    """

    def __init__(self, load: Callable[[Path, EngineSpec], Loaded]) -> None:
        self._load = load
        self._expected: deque[tuple[Path, EngineSpec]] = deque()
        self._begun: dict[str, Future[Loaded]] = {}
        self._thread = ThreadPoolExecutor(1, "engines")

    def expect(self, order: Iterable[tuple[Path, EngineSpec]]) -> None:
        """Engines will be asked for in this order, and the first is begun; what else was loaded ahead is closed."""
        wanted = {spec.name: (path, spec) for path, spec in order}
        for name in self._begun.keys() - wanted.keys():
            with suppress(Exception):  # nobody has asked for it
                self._begun.pop(name).result().close()
        self._expected = deque(place for name, place in wanted.items() if name not in self._begun)
        self.begin()

    def begin(self) -> None:
        """Begin to load the next, unless one is being loaded."""
        if self._expected and all(load.done() for load in self._begun.values()):
            path, spec = self._expected.popleft()
            self._begun[spec.name] = self._thread.submit(self._load, path, spec)

    def take(self, name: str) -> Loaded | None:
        """Engine `name`, once it is loaded; None where that was not begun. Raises what loading it has raised."""
        self._expected = deque(place for place in self._expected if place[1].name != name)
        if name not in self._begun:
            return None
        wait([self._begun[name]])
        return self._begun.pop(name).result()
