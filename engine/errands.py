"""What a thread does while whoever sent it goes on: such as keeping what was made while the next is made."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from stt2v.engine.backends.base import Closing


class Errands(Closing):
    """One thing at a time. What it has raised is raised when it is waited for, as it is before the next and at the end.

    It is also done where the block of this raises, whose error its own one replaces.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "errand")
        self._last: Future[object] | None = None

    def send(self, errand: Callable[[], object]) -> None:
        """Have `errand` done, once the one before is."""
        self.wait()
        self._last = self._thread.submit(errand)

    def wait(self) -> None:
        """Return when nothing is left to do."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        with self._thread:
            self.wait()
