"""Who waits for news of which video: any thread puts them up, and watchers in the event loop read them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress


class Watcher:
    """Hears which videos have changed: once of each, however often it did, so a slow one only misses what is past."""

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._changed: dict[str, None] = {}
        self._news = asyncio.Event()
        self.over = False

    async def names(self) -> AsyncIterator[str]:
        """The names of videos that have changed, until the server stops."""
        while not self.over:
            await self._news.wait()
            self._news.clear()
            while self._changed:
                name = next(iter(self._changed))
                del self._changed[name]
                yield name

    def hear(self, name: str) -> None:
        """The video `name` has changed."""
        if self._name in (None, name):
            self._changed[name] = None
            self._news.set()

    def end(self) -> None:
        """There is nothing more to hear."""
        self.over = True
        self._news.set()


class Board:
    """To be made in the event loop that the watchers live in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watching(self, name: str | None = None) -> Iterator[Watcher]:
        """A watcher of one video, or of all."""
        watcher = Watcher(name)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def tell(self, name: str) -> None:
        """The video `name` has changed. For any thread."""
        self._each(lambda watcher: watcher.hear(name))

    def close(self) -> None:
        """End all watchers. For any thread."""
        self._each(Watcher.end)

    def _each(self, tell: Callable[[Watcher], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it all watchers
            self._loop.call_soon_threadsafe(lambda: [*map(tell, self._watchers)])
