"""Several compilers at once: what needs this process is done one after the other, what is left in threads."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Result = Callable[[], T]
"""The result of a task, or the exception that it ended with."""

Begin = Callable[[], Callable[[], T]]


def in_turn(tasks: Iterable[tuple[str, Begin[T]]], jobs: int) -> Iterator[tuple[str, Result[T]]]:
    """Begin each task here and finish up to `jobs` of them at once; yields the name and the result of each that ends.

    With one job all happens in this thread, so that what it waits for ends with it.
    """
    if jobs == 1:
        for name, begin in tasks:
            yield name, _attempt(partial(_whole, begin)).result
        return
    running: dict[Future[T], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for name, begin in tasks:
            begun = _attempt(begin)
            running[begun if begun.exception() else pool.submit(begun.result())] = name
            if len(running) == jobs:
                yield from _ended(running)
        while running:
            yield from _ended(running)


def _whole(begin: Begin[T]) -> T:
    return begin()()


def _attempt(task: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(task())
    except Exception as error:
        future.set_exception(error)
    return future


def _ended(running: dict[Future[T], str]) -> Iterator[tuple[str, Result[T]]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result
