"""Recorded runs, on a stand-in for a card."""

from collections.abc import Sequence

import pytest
import torch
from counting_card import CountingCard
from torch import Tensor

from stt2v.engine.backends.inductor import InductorBackend
from stt2v.engine.backends.inductor_recording import LARGEST, Recorder
from stt2v.engine.backends.inductor_weights import CardWeights
from stt2v.engine.backends.memory import HostMeter
from stt2v.engine.backends.residency import Needs, Residency

SIZE = 1024  # bytes of the only output


def double(weight: Tensor, x: Tensor) -> Sequence[Tensor]:
    return (weight * x,)


@pytest.fixture
def weight() -> Tensor:
    return torch.full((SIZE // 4,), 2.0)


def run(recorder: Recorder, weight: Tensor, value: float, name: str = "engine", beside: int = SIZE) -> Tensor:
    (output,) = recorder.run(name, Needs({}, beside), double, [weight], [torch.full((SIZE // 4,), value)])
    return output


def test_the_second_run_is_recorded_and_outputs_stay_what_they_were(weight: Tensor) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(), card)
    outputs = [run(recorder, weight, value) for value in (1.0, 2.0, 3.0)]
    assert [float(output[0]) for output in outputs] == [2.0, 4.0, 6.0]
    assert card.replays == 2


def test_a_large_engine_is_not_recorded(weight: Tensor) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(), card)
    for value in (1.0, 2.0, 3.0):
        assert float(run(recorder, weight, value, beside=LARGEST + 1)[0]) == 2 * value
    assert card.replays == 0


@pytest.mark.parametrize(("budget", "replays"), [(3 * SIZE, 0), (4 * SIZE, 2)])
def test_an_engine_is_recorded_only_where_twice_its_memory_is_free(weight: Tensor, budget: int, replays: int) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(budget), card)
    for value in (1.0, 2.0, 3.0):
        assert float(run(recorder, weight, value, beside=2 * SIZE)[0]) == 2 * value
    assert card.replays == replays


def test_recordings_are_taken_off_the_memory_for_weights_until_it_is_needed(weight: Tensor) -> None:
    residency = Residency(10 * SIZE)
    recorder = Recorder(residency, CountingCard(1 << 20))
    needs = Needs({}, 4 * SIZE)
    for value in (1.0, 2.0):
        assert recorder.needs("engine", needs) == needs
        run(recorder, weight, value)
    assert residency.budget == 9 * SIZE
    assert recorder.needs("engine", needs).beside == 0
    assert recorder.needs("other", Needs({}, 9 * SIZE)).beside == 9 * SIZE
    assert residency.budget == 9 * SIZE
    large = Needs({"w": SIZE}, 9 * SIZE)
    assert recorder.needs("other", large) == large
    assert residency.budget == 10 * SIZE
    assert recorder.needs("engine", needs) == needs


def test_recordings_go_before_weights_do_for_a_recorded_engine(weight: Tensor) -> None:
    """Its weights went when another engine of the same ones was closed, and room for them is taken."""
    residency = Residency(10 * SIZE)
    recorder = Recorder(residency, CountingCard(1 << 20))
    for value in (1.0, 2.0):
        run(recorder, weight, value)
    residency.use("other", Needs({"other": 6 * SIZE}, 0))
    needs = Needs({"own": 4 * SIZE}, SIZE)
    assert recorder.needs("engine", needs) == needs
    assert residency.budget == 10 * SIZE


def test_a_run_goes_on_without_recordings_where_memory_ran_out(weight: Tensor) -> None:
    residency, card = Residency(10 * SIZE), CountingCard(1 << 30)
    recorder = Recorder(residency, card)
    backend = InductorBackend("cuda", CardWeights(residency, card), HostMeter(), recorder)
    for value in (1.0, 2.0):
        run(recorder, weight, value)
    assert backend.refit()
    assert not backend.refit()  # as much is free as before


def test_what_had_to_go_is_called_plainly_from_then_on(weight: Tensor) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(10 * SIZE), card)
    for value in (1.0, 2.0):
        run(recorder, weight, value)
    recorder.give_up()
    assert card.held == 0
    assert [float(run(recorder, weight, value)[0]) for value in (3.0, 4.0)] == [6.0, 8.0]
    assert card.replays == 1


def test_engines_are_recorded_after_others_had_to_go(weight: Tensor) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(10 * SIZE), card)
    for name in ("one", "other"):
        for value in (1.0, 2.0, 3.0):
            assert float(run(recorder, weight, value, name)[0]) == 2 * value
        recorder.give_up()
    assert card.replays == 4


def test_weights_that_lie_elsewhere_now_are_seen(weight: Tensor) -> None:
    card = CountingCard(1 << 20)
    recorder = Recorder(Residency(), card)
    for value in (1.0, 2.0):
        run(recorder, weight, value)
    assert float(run(recorder, weight * 2, 3.0)[0]) == 12.0
    assert card.replays == 1


def test_a_closed_engine_gives_its_memory_back_and_begins_anew(weight: Tensor) -> None:
    card, residency = CountingCard(1 << 20), Residency(10 * SIZE)
    recorder = Recorder(residency, card)
    for _ in range(2):
        for value in (1.0, 2.0):
            assert float(run(recorder, weight, value)[0]) == 2 * value
        recorder.forget("engine")
        assert (card.held, residency.budget) == (0, 10 * SIZE)
    assert card.replays == 2


def test_where_there_is_no_memory_for_a_recording_the_engine_runs_plainly_after_it_is_told(weight: Tensor) -> None:
    recorder = Recorder(Residency(10 * SIZE), CountingCard(SIZE - 1))
    run(recorder, weight, 1.0)
    with pytest.raises(torch.OutOfMemoryError):
        run(recorder, weight, 2.0)
    recorder.give_up()
    assert float(run(recorder, weight, 2.0)[0]) == 4.0
