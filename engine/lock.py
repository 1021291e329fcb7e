"""One builder at a time for each engine set."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stt2v.engine.home import home, private_folder


@contextmanager
def build_lock(directory: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the set in `directory` against other builds of it and against pruning, until the block ends.

    While another process holds it, `waiting` is called once, which may raise; then this waits. The lock of a process
    that is killed goes with it.
    """
    name = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    with (private_folder(home() / "locks") / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
