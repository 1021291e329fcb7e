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
    """Engines that are expected, loaded in their order, one at a time.

    Another one that is to run for the first time has to wait for a load that is under way. So a load begins when an
    engine that runs on has been told to; but until one is asked for, nothing runs, and each begins when the last ended.
    """

    def __init__(self, load: Callable[[Path, EngineSpec], Loaded]) -> None:
        self._load = load
        self._expected: deque[tuple[Path, EngineSpec]] = deque()
        self._begun: dict[str, Future[Loaded]] = {}
        self._unasked = True
        self._thread = ThreadPoolExecutor(1, "engines")
        self._change = RLock()

    def expect(self, order: Iterable[tuple[Path, EngineSpec]]) -> None:
        """Engines will be asked for in this order, and the first is begun; what else was loaded ahead is closed."""
        wanted = {spec.name: (path, spec) for path, spec in order}
        with self._change:
            needless = [self._begun.pop(name) for name in self._begun.keys() - wanted.keys()]
            self._expected = deque(place for name, place in wanted.items() if name not in self._begun)
            self._unasked = True
        for load in needless:
            with suppress(Exception):  # nobody has asked for it
                load.result().close()
        self.begin()

    def begin(self) -> None:
        """Begin to load the next, unless one is being loaded."""
        with self._change:
            if not self._expected or not all(load.done() for load in self._begun.values()):
                return
            path, spec = self._expected.popleft()
            load = self._begun[spec.name] = self._thread.submit(self._load, path, spec)
        load.add_done_callback(self._go_on)

    def _go_on(self, _: Future[Loaded]) -> None:
        if self._unasked:
            self.begin()

    def take(self, name: str) -> Loaded | None:
        """Engine `name`, once it is loaded; None where that was not begun. Raises what loading it has raised."""
        with self._change:
            self._unasked = False
            self._expected = deque(place for place in self._expected if place[1].name != name)
            if name not in self._begun:
                return None
        wait([self._begun[name]])
        return self._begun.pop(name).result()
