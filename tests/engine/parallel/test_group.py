"""Calls that do not depend on each other, and who does them."""

import weakref
from collections.abc import Iterable, Iterator

import numpy as np

from stt2v.engine.backends.base import Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.models.mini import MINI
from stt2v.engine.parallel.group import Call, Outputs, SpreadEngine, SpreadEngines, for_calls, run_all, size_of
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages.denoise import FusedStep, HalvedStep, guided_step

ONE = (TensorSpec("x", "float32", (1,)),)


def doubled(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    return {"x": 2 * inputs["x"]}


def engine(name: str = "twice") -> FakeEngine:
    return FakeEngine(EngineSpec(name, ONE, ONE), doubled)


class Counting:
    """A group of three that does everything here, and notes how many calls it was given."""

    size = 3

    def __init__(self) -> None:
        self.calls = 0

    def run_all(self, calls: Iterable[Call]) -> Iterator[Outputs]:
        for call in calls:
            self.calls += 1
            yield call.run()

    def expect(self, names: Iterable[str]) -> None: ...

    def close(self) -> None: ...


def test_calls_are_made_one_at_a_time_where_nobody_else_is() -> None:
    taken: list[int] = []

    def calls() -> Iterator[Call]:
        for number in range(3):
            taken.append(number)
            yield Call(engine(), {"x": np.full(1, number, np.float32)})

    results = run_all(calls())
    assert taken == []
    assert next(results)["x"] == 0
    assert taken == [0]
    assert [float(made["x"][0]) for made in results] == [2, 4]
    assert not [*run_all([])]


class OnDevice:
    """A value that is still being computed when it is given out."""

    def __init__(self, array: np.ndarray, taken: list[str]) -> None:
        self.array, self.taken = array, taken

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        self.taken.append(f"takes {self.array[0]:.0f}")
        return self.array


class Beginning(FakeEngine):
    """An engine that gives its outputs out before they are computed."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__(EngineSpec("late", ONE, ONE), doubled)
        self.happened = happened

    def run(self, inputs: Values) -> Outputs:
        outputs = super().run(inputs)
        self.happened.append(f"begins {outputs['x'][0]:.0f}")
        return {"x": OnDevice(outputs["x"], self.happened)}


def test_a_device_computes_the_next_while_a_result_is_taken() -> None:
    happened: list[str] = []
    engine = Beginning(happened)
    for made in run_all(Call(engine, {"x": np.full(1, number, np.float32)}) for number in range(3)):
        np.asarray(made["x"])
    assert happened == ["begins 0", "begins 2", "takes 0", "begins 4", "takes 2", "takes 4"]


def test_the_group_of_an_engine_does_its_calls() -> None:
    group = Counting()
    spread = SpreadEngine(engine(), group)
    assert [
        float(made["x"][0]) for made in run_all(Call(spread, {}, {"x": np.ones(1, np.float32)}) for _ in "abcd")
    ] == [2.0] * 4
    assert group.calls == 4
    assert spread.run({"x": np.ones(1, np.float32)})["x"] == 2
    assert group.calls == 4


def test_a_session_closes_its_group_once() -> None:
    closed: list[str] = []
    session = Session(MINI, {})
    session._group = Counting()
    session._group.close = lambda: closed.append("yes")  # type: ignore[method-assign]
    with session:
        session.close()
    assert closed == ["yes"]


def test_the_streaming_stage_goes_by_halves_where_there_are_several() -> None:
    engines = {name: engine(name) for name in ("step", "half", "update", "enhance_8_step", "enhance_8_half")}
    spread = SpreadEngines(engines, Counting())
    assert (size_of(engines), size_of(spread)) == (1, 3)
    assert isinstance(guided_step(engines).step, FusedStep)
    assert isinstance(guided_step(spread).step, HalvedStep)
    assert isinstance(guided_step(spread, "enhance_8_step").step, FusedStep)


def test_what_calls_were_made_of_is_read_again_and_not_kept() -> None:
    numbers = (np.full(1, number, np.float32) for number in range(9))
    alive: list[weakref.ref[np.ndarray]] = []

    def noted(number: np.ndarray) -> np.ndarray:
        alive.append(weakref.ref(number))
        return number

    first, again = for_calls(map(noted, numbers))
    for made, number in zip(run_all(Call(engine(), {"x": item}) for item in first), again, strict=True):
        assert made["x"] == 2 * number
        assert sum(reference() is not None for reference in alive) <= 2
    assert len(alive) == 9
