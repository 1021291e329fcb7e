"""Two threads, of which one works on what the other makes."""

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest

from stt2v.engine import belt as module
from stt2v.engine.belt import AbandonedError, ahead, belt

WAIT = 30  # seconds after which a test has failed


def make(numbers: Iterable[int], work: Callable[[Iterator[int]], None], places: int) -> None:
    """Put `numbers` on a belt, and see that no thread is left."""
    before = threading.active_count()
    try:
        with belt(work, places) as put:
            for number in numbers:
                put(number)
    finally:
        assert threading.active_count() == before


def test_another_thread_gets_all_items_in_their_order() -> None:
    threads, got = set[int](), list[int]()

    def work(items: Iterator[int]) -> None:
        threads.add(threading.get_ident())
        got.extend(items)

    make(range(9), work, 2)
    assert got == [*range(9)]
    assert threads.isdisjoint({threading.get_ident()})


def test_few_items_wait() -> None:
    """Without work as many are made as there are places, and one that waits for a place."""
    full, made = threading.Event(), list[int]()

    def numbers() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            if number == 3:
                full.set()
            yield number

    def work(items: Iterator[int]) -> None:
        assert full.wait(WAIT)
        for number in items:
            assert len(made) <= number + 4

    make(numbers(), work, 3)
    assert len(made) == 9


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_an_error_of_the_work_ends_the_making(taken: int) -> None:
    """Also of one that waits for a place."""
    numbers = iter(range(99))

    def work(items: Iterator[int]) -> None:
        for _ in range(taken):
            next(items)
        raise ValueError("no work")

    with pytest.raises(ValueError, match="no work"):
        make(numbers, work, 2)
    assert next(numbers) <= taken + 3


def test_an_error_at_the_end_of_the_work_is_raised_when_all_is_made() -> None:
    def work(items: Iterator[int]) -> None:
        assert sum(items) == 3
        raise ValueError("no end")

    with pytest.raises(ValueError, match="no end"):
        make([1, 2], work, 9)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_making_ends_the_work(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is not worked on, and the work can leave nothing half done."""
    got, ended = list[int](), list[type[BaseException]]()
    begun, failed = threading.Event(), threading.Event()

    class Told(threading.Event):
        def set(self) -> None:
            super().set()
            failed.set()

    def numbers() -> Iterator[int]:
        yield from range(5)
        assert begun.wait(WAIT)
        raise error

    def work(items: Iterator[int]) -> None:
        try:
            for number in items:
                got.append(number)
                begun.set()
                failed.wait(WAIT)
        except BaseException as error:
            ended.append(type(error))
            raise

    monkeypatch.setattr(module, "Event", Told)
    with pytest.raises(error):
        make(numbers(), work, 9)
    assert (got, ended) == ([0], [AbandonedError])


def test_things_are_made_ahead_in_their_order_and_few() -> None:
    """The caller's thread takes the items, others make things of them, as many at once as there are places."""
    taken, threads = list[int](), set[int]()
    together = threading.Barrier(3)

    def items() -> Iterator[int]:
        for number in range(9):
            taken.append(number)
            yield number

    def made(number: int) -> int:
        threads.add(threading.get_ident())
        together.wait(WAIT)
        return number

    for count, number in enumerate(ahead(made, items(), 3)):
        assert number == count
        assert len(taken) <= count + 4
    assert count == 8
    assert threads.isdisjoint({threading.get_ident()})


def test_an_error_of_what_is_made_ahead_comes_in_its_place() -> None:
    before = threading.active_count()
    things = ahead(lambda number: 6 // (2 - number), range(9), 3)
    assert [next(things), next(things)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(things)
    assert threading.active_count() == before
