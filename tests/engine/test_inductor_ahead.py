"""Engines that a thread loads before they are asked for, on loads that end when they are told to."""

from pathlib import Path
from threading import Event

import pytest

from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.inductor_ahead import LoadsAhead
from stt2v.engine.errors import BackendError
from stt2v.engine.spec import EngineSpec

ORDER = [(Path(name), EngineSpec(name, (), ())) for name in "abc"]


class Loading:
    """Loads each engine once it may; notes what was begun."""

    def __init__(self) -> None:
        self.may = {spec.name: Event() for _, spec in ORDER}
        self.begun: list[str] = []
        self.last_begun = Event()
        self.open: set[str] = set()

    def __call__(self, path: Path, spec: EngineSpec) -> FakeEngine:
        self.begun.append(spec.name)
        if spec == ORDER[-1][1]:
            self.last_begun.set()
        assert self.may[spec.name].wait(30)
        if spec.name == "b":
            raise BackendError("b is damaged")
        self.open.add(spec.name)
        return Noted(spec, self)


class Noted(FakeEngine):
    """An engine that says when it is closed."""

    def __init__(self, spec: EngineSpec, loading: Loading) -> None:
        super().__init__(spec)
        self.loading = loading

    def close(self) -> None:
        self.loading.open.remove(self.spec.name)


@pytest.fixture
def loading() -> Loading:
    return Loading()


@pytest.fixture
def loads(loading: Loading) -> LoadsAhead[FakeEngine]:
    return LoadsAhead(loading)


def test_while_none_is_asked_for_one_load_follows_the_other(loading: Loading, loads: LoadsAhead[FakeEngine]) -> None:
    loads.expect(ORDER)
    for event in loading.may.values():
        event.set()
    assert loading.last_begun.wait(30)  # although b is damaged
    assert loads.take("c")
    assert loads.take("a")
    with pytest.raises(BackendError, match="b is damaged"):
        loads.take("b")
    assert loading.begun == ["a", "b", "c"]


def test_once_one_is_asked_for_a_load_begins_with_each_run(loading: Loading, loads: LoadsAhead[FakeEngine]) -> None:
    loads.expect(ORDER)
    assert loads.take("another") is None
    loads.begin()  # a is still being loaded
    loading.may["a"].set()
    assert (engine := loads.take("a"))
    assert engine.spec.name == "a"
    assert loading.begun == ["a"]
    loading.may["b"].set()
    loading.may["c"].set()
    loads.begin()
    with pytest.raises(BackendError, match="b is damaged"):  # where it is asked for
        loads.take("b")
    assert loads.take("b") is None  # so it may be tried again
    loads.begin()
    assert loads.take("c")
    assert loading.begun == ["a", "b", "c"]


def test_what_is_asked_for_before_its_turn_is_not_loaded_twice(loading: Loading, loads: LoadsAhead[FakeEngine]) -> None:
    loads.expect(ORDER)
    assert loads.take("b") is None
    loading.may["a"].set()
    loading.may["c"].set()
    assert loads.take("a")
    loads.begin()
    assert loads.take("c")
    assert loading.begun == ["a", "c"]


def test_what_nobody_asks_for_is_closed(loading: Loading, loads: LoadsAhead[FakeEngine]) -> None:
    loads.expect(ORDER)
    assert loads.take("another") is None
    loading.may["a"].set()
    loads.expect(ORDER[:1])
    assert (engine := loads.take("a"))
    loads.expect(ORDER[1:])
    loading.may["b"].set()
    loads.expect(ORDER[2:])  # b, which cannot be loaded, is not missed
    loading.may["c"].set()
    loads.expect(())
    assert loading.begun == ["a", "b", "c"]
    assert loading.open == {engine.spec.name}
