"""The card of this machine, for one process of a build at a time."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".card"


@contextmanager
def card_to_itself(stage: Path) -> Iterator[None]:
    """Wait until no other process or thread of the build in `stage` computes on the card, and keep them off it.

    So figures are those of one engine, and one that runs out of memory does so by itself.
    """
    with (stage / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
