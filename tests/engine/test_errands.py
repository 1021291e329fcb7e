"""What a thread does while whoever sent it goes on."""

import threading
from collections.abc import Iterator

import pytest

from stt2v.engine.errands import Errands

WAIT = 30  # seconds after which a test has failed


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_whoever_sends_goes_on_and_the_next_errand_waits() -> None:
    gone_on, done = threading.Event(), list[int]()

    def first() -> None:
        assert gone_on.wait(WAIT)
        done.append(1)

    with Errands() as errands:
        errands.send(first)
        assert not done
        gone_on.set()
        errands.send(lambda: done.append(2))
        assert done[0] == 1
        errands.wait()
        assert done == [1, 2]
        errands.send(lambda: done.append(3))
    assert done == [1, 2, 3]


def fail() -> None:
    raise ValueError("no place")


@pytest.mark.parametrize("then", ["send", "wait", "end"])
def test_what_an_errand_raises_is_raised_when_it_is_waited_for(then: str) -> None:
    gone_on, done = list[int](), list[int]()

    def errands() -> None:
        with Errands() as errands:
            errands.send(fail)
            gone_on.append(1)
            if then == "send":
                errands.send(lambda: done.append(1))
            if then == "wait":
                errands.wait()

    with pytest.raises(ValueError, match="no place"):
        errands()
    assert (gone_on, done) == ([1], [])


def test_an_errand_is_done_where_its_sender_fails() -> None:
    """Its own error is the one to hear of: it tells what is not there."""
    done = list[int]()

    def errands() -> None:
        with Errands() as errands:
            errands.send(lambda: done.append(1))
            raise KeyError("stop")

    def failing() -> None:
        with Errands() as errands:
            errands.send(fail)
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        errands()
    assert done == [1]
    with pytest.raises(ValueError, match="no place"):
        failing()
