"""How far a video is, and how long it takes."""

import sys
import threading

import pytest

from stt2v.engine.server.estimate import Estimate
from stt2v.engine.server.messages import Advanced, Forecast, StageBegun


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_begins_with_the_forecast_and_learns_the_speed() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    estimate.hear(Forecast({"generate": 60.0, "enhance": 40.0}, 10))
    estimate.hear(StageBegun("generate", 10))
    assert (estimate.percent, estimate.stage) == (0, "generate")
    assert estimate.seconds_left == pytest.approx(100)
    for _ in range(10):
        clock.now += 12  # twice as slow
        estimate.hear(Advanced("generate", 1))
    assert estimate.percent == 60
    assert estimate.seconds_left == pytest.approx(80, rel=0.1)
    estimate.hear(StageBegun("enhance", 4))
    for _ in range(4):
        clock.now += 20
        estimate.hear(Advanced("enhance", 1))
    assert (estimate.percent, estimate.seconds_left) == (99, pytest.approx(0))


def test_what_a_run_has_kept_counts_as_done_but_not_as_fast() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    estimate.hear(Forecast({"generate": 100.0}, 100))
    estimate.hear(StageBegun("generate", 40))
    assert estimate.percent == 60
    assert estimate.seconds_left == pytest.approx(40)
    clock.now += 20
    estimate.hear(Advanced("generate", 20))
    assert estimate.percent == 80
    assert estimate.seconds_left == pytest.approx(20)


def test_it_may_be_asked_while_it_hears() -> None:
    estimate, before = Estimate(), sys.getswitchinterval()
    stages = [StageBegun(f"stage {number}", 1) for number in range(1000)]
    hearing = threading.Thread(target=lambda: [*map(estimate.hear, stages)])
    sys.setswitchinterval(1e-6)
    try:
        hearing.start()
        while hearing.is_alive():
            assert estimate.percent == 0
            assert estimate.seconds_left is None
    finally:
        sys.setswitchinterval(before)
        hearing.join()


def test_without_a_forecast_all_stages_count_alike() -> None:
    clock = Clock()
    estimate = Estimate(clock)
    assert (estimate.percent, estimate.seconds_left) == (0, None)
    estimate.hear(Forecast({"generate": 0.0, "interpolate": 0.0}, 2))
    estimate.hear(StageBegun("generate", 2))
    clock.now += 5
    estimate.hear(Advanced("generate", 1))
    assert estimate.percent == 25
    assert estimate.seconds_left == pytest.approx(15)
