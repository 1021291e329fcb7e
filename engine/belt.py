"""A belt from the thread that makes things to one that works on them, so that neither waits for the other.

And `ahead`, for the other way round: threads make what the one that works asks for.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


class AbandonedError(Exception):
    """What `work` gets where whoever makes the items has failed."""


@contextmanager
def belt(work: Callable[[Iterator[Item]], object], places: int) -> Iterator[Callable[[Item], None]]:
    """A thread does `work` on the items that the block puts on the belt, in their order.

    The block is given what puts an item there; it waits while there are `places`, the one in work included. It raises
    what `work` has raised, as does the end of the block, which waits for `work` to end. Where the block itself raises,
    `work` gets AbandonedError in place of its next item.
    """
    items: SimpleQueue[tuple[Item, ...]] = SimpleQueue()
    room, abandoned = Semaphore(places), Event()

    def taken() -> Iterator[Item]:
        while (item := items.get()) and not abandoned.is_set():
            yield item[0]
            room.release()
        if abandoned.is_set():
            raise AbandonedError

    with ThreadPoolExecutor(1, "belt") as thread:
        worked = thread.submit(work, taken())
        worked.add_done_callback(lambda _: room.release())  # nobody is to wait for a thread that has ended

        def put(item: Item) -> None:
            room.acquire()
            if worked.done():
                room.release()
                worked.result()
            items.put((item,))

        try:
            yield put
        except BaseException:
            abandoned.set()
            raise
        finally:
            items.put(())
        worked.result()


def ahead(make: Callable[[Item], Made], items: Iterable[Item], places: int) -> Iterator[Made]:
    """What `make` gives of each of `items`, in their order.

    As many threads as there are `places` make as many things while the caller has the one before them. `items` are
    taken by the caller's thread. What `make` raises is raised in the place of what it should have made.
    """
    made: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(places, "ahead") as threads:
        try:
            for item in items:
                made.append(threads.submit(make, item))
                if len(made) > places:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()
        finally:
            for unwanted in made:
                unwanted.cancel()
