"""The parts of a video by several processes are bit for bit what one process makes."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from stt2v.engine.backends.base import Engine, Values
from stt2v.engine.backends.ort import HostEngine
from stt2v.engine.engine_set import EngineSet, Without
from stt2v.engine.errors import BackendError, OutOfMemoryError, UsageError
from stt2v.engine.parallel.group import Call, Outputs, SpreadEngines, run_all
from stt2v.engine.parallel.member import serve
from stt2v.engine.parallel.processes import Processes
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec
from stt2v.engine.stages.denoise import StepInputs, guided_step
from stt2v.engine.store import SHIPPED

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tiny() -> Iterator[EngineSet]:
    with EngineSet.open(SHIPPED / "tiny") as engines:
        yield engines


@pytest.fixture(scope="module")
def spread(tiny: EngineSet) -> Iterator[SpreadEngines]:
    with Processes(tiny, 2, trust=False) as group:
        yield SpreadEngines(tiny, group)


def random_inputs(spec: EngineSpec, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {each.name: random.random(each.shape).astype(each.dtype) for each in spec.inputs}


def assert_same(one: list[Outputs], other: list[Outputs]) -> None:
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]))


@pytest.mark.parametrize("name", ["vae_decode_8", "enhance_vae_decode", "interpolate_256x128", "enhance_8_conditions"])
def test_independent_calls_are_equal_bit_for_bit(name: str, tiny: EngineSet, spread: SpreadEngines) -> None:
    def results(engine: Engine) -> list[Outputs]:
        return [*run_all(Call(engine, random_inputs(engine.spec, seed)) for seed in range(3))]

    assert_same(results(spread[name]), results(tiny[name]))


def steps_of(engine: Engine, count: int, same: bool) -> list[StepInputs]:
    """Steps whose conditions are one object, or one for each of them."""
    made = []
    for seed in range(count):
        values = random_inputs(engine.spec, seed)
        own = [values.pop(name) for name in ("x", "coefficients", "guidance")]
        made.append(StepInputs(own[0], own[1], own[2], made[0].conditions if same and made else values, {}))
    return made


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("name", ["step", "enhance_8_step"])
def test_windows_and_guidance_halves_are_equal_bit_for_bit(
    name: str, same: bool, tiny: EngineSet, spread: SpreadEngines
) -> None:
    """The streaming step to a run by halves, a window's to the fused step."""
    alone = guided_step(Without(tiny, frozenset({"step"})), name)
    steps = steps_of(tiny[name], 3, same)
    for one, other in zip(guided_step(spread, name).each(steps), alone.each(steps), strict=True):
        for value, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.asarray(value), np.asarray(expected))


def test_errors_come_back_as_they_were_raised(spread: SpreadEngines) -> None:
    engine = spread["vae_decode_8"]
    right = random_inputs(engine.spec, 0)
    for calls in ([right, {}], [{}, right], [{}, {}]):
        with pytest.raises(BackendError, match="vae_decode_8"):
            [*run_all(Call(engine, inputs) for inputs in calls)]
    assert len([*run_all(Call(engine, right) for _ in range(2))]) == 2


def test_no_memory_here_or_there_is_told_as_such(spread: SpreadEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: HostEngine, inputs: Values) -> Outputs:
        raise OutOfMemoryError("memory ran out")

    engine = spread["vae_decode_8"]
    with monkeypatch.context() as patch:
        patch.setattr(HostEngine, "run", failing)
        with pytest.raises(OutOfMemoryError):
            [*run_all(Call(SpreadEngines(spread.engines, spread.group)[engine.spec.name], {}) for _ in "ab")]
    assert len([*run_all(Call(engine, random_inputs(engine.spec, 0)) for _ in "ab")]) == 2


def test_a_process_is_told_which_engines_come(spread: SpreadEngines) -> None:
    engines, wire = Mock(), Mock()
    wire.head.side_effect = [{"expect": ["half", "vae_decode_8"]}, {"engine": None}]
    wire.values.return_value = {}
    serve(engines, wire)
    engines.expect.assert_called_once_with(["half", "vae_decode_8"])
    spread.group.expect(["vae_decode_8"])
    engine = spread["vae_decode_8"]
    assert len([*run_all(Call(engine, random_inputs(engine.spec, 0)) for _ in range(2))]) == 2


def test_a_process_that_does_not_begin_is_named(
    tmp_path: Path, tiny: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "directory", tmp_path)
    with pytest.raises(BackendError, match="rank 1 of 2 ended with code 1 before"):
        Processes(tiny, 2, trust=False)


def test_more_gpus_than_there_are_cards(monkeypatch: pytest.MonkeyPatch, tiny: EngineSet) -> None:
    monkeypatch.setattr("stt2v.engine.parallel.wire.card_count", lambda: 1)
    monkeypatch.setattr(tiny, "manifest", type("M", (), {"target": "cuda", "backend": "inductor"}))
    with pytest.raises(UsageError, match="number of GPUs is 2, PyTorch sees 1"):
        Processes(tiny, 2, trust=False)
    with pytest.raises(UsageError, match="at least 1"):
        Session.open("tiny", gpus=0)
