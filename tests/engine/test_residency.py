"""Which weights lie on a card: what goes, what comes, and never more than the budget."""

import random

import pytest

from stt2v.engine.backends.residency import Needs, Residency
from stt2v.engine.errors import OutOfMemoryError

A = Needs({"a1": 30, "a2": 10}, beside=20)
B = Needs({"b": 50}, beside=10)
SHARING = Needs({"a1": 30, "c": 5}, beside=5)


def test_without_a_budget_all_stays() -> None:
    residency = Residency()
    assert residency.use("a", A).brought == ("a1", "a2")
    assert residency.use("b", B).brought == ("b",)
    assert residency.use("a", A) == residency.use("b", B)  # nothing moves
    assert (residency.held, residency.peak, residency.moved) == (90, 110, 90)


def test_what_was_not_used_for_longest_goes() -> None:
    residency = Residency(110)
    residency.use("a", A)
    residency.use("b", B)
    residency.use("a", A)
    move = residency.use("c", Needs({"c": 20}, beside=10))
    assert (move.dropped, move.brought) == (("b",), ("c",))
    assert residency.peak == 110


def test_no_more_goes_than_has_to() -> None:
    residency = Residency(90)
    residency.use("a", A)
    assert residency.use("b", B).dropped == ("a1",)
    assert residency.use("a", A).brought == ("a1",)


def test_shared_weights_come_once() -> None:
    residency = Residency()
    residency.use("a", A)
    assert residency.use("sharing", SHARING).brought == ("c",)


def test_an_engine_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    residency = Residency(59)
    residency.use("sharing", SHARING)
    with pytest.raises(OutOfMemoryError, match="engine 'a' takes 60 B of the card's memory, 59 B are for it"):
        residency.use("a", A)
    assert residency.held == 35


def test_what_comes_next_comes_while_an_engine_runs_if_there_is_room() -> None:
    order = [("a", A), ("sharing", SHARING), ("b", B)]
    residency = Residency(100)
    residency.expect(order)
    residency.use("a", A)
    assert [(name, move.brought) for name, move in residency.ahead("a", A.beside)] == [("sharing", ("c",))]
    assert residency.ahead("a", A.beside) == ()  # b would not fit beside what runs
    assert residency.use("sharing", SHARING).brought == ()
    assert [name for name, _ in residency.ahead("sharing", SHARING.beside)] == ["b"]
    move = residency.use("b", B)
    assert (move.dropped, move.brought) == (("a2",), ())


def test_the_budget_is_kept_whatever_comes() -> None:
    draw = random.Random(0)
    sizes = {f"w{n}": draw.randrange(1, 40) for n in range(12)}
    engines = [
        (str(n), Needs({key: sizes[key] for key in draw.sample(sorted(sizes), 3)}, draw.randrange(40)))
        for n in range(9)
    ]
    residency = Residency(max(needs.nbytes for _, needs in engines))
    residency.expect(engines)
    for name, needs in (*engines, *draw.choices(engines, k=200)):
        residency.use(name, needs)
        residency.ahead(name, needs.beside)
    assert residency.budget is not None
    assert 0 < residency.peak <= residency.budget
