"""Drift of a chunk: its figures, its limits, and what is done about it."""

from typing import Any

import numpy as np
import pytest

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.drift import ATTEMPTS, Beginning, Drifting, DriftLimits, DriftWatch
from stt2v.engine.errors import DriftError, UsageError
from stt2v.engine.stages.decode import from_uint8


def moving(count: int, start: int = 0, level: int = 0) -> Frames:
    """A smooth texture that moves by one pixel a frame: [count, 48, 64, 3]."""
    y, x = np.mgrid[:48, :64]
    steps = np.arange(start, start + count)[:, None, None]
    wave = 100 + 60 * np.sin((x - steps) / 4) * np.cos(y / 5)
    return (wave[..., None] + np.array([0, 10, 20]) + level).astype(np.uint8)


class Notes:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps = 0

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        self.steps += steps

    def note(self, line: str) -> None:
        self.lines.append(line)


def floats(frames: Frames) -> Array:
    return from_uint8(frames.transpose(0, 3, 1, 2))


def test_what_goes_on_does_not_drift() -> None:
    drift = Beginning.of(moving(6)).drift(moving(1, 5)[0], moving(6, 6))
    assert drift.seam == pytest.approx(1, abs=0.1)
    assert drift.sharpness == pytest.approx(1, abs=0.1)
    assert drift.colour < 2
    assert drift.flow == pytest.approx(100 / 64, rel=0.1)
    assert max(DriftLimits().strains(drift).values()) < 1


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("seam", moving(6, 40)),
        ("colour", moving(6, 6, level=80)),
        ("sharpness", np.full((6, 48, 64, 3), 110, np.uint8)),
        ("flow", np.repeat(moving(1, 5), 6, axis=0)),
    ],
)
def test_each_figure_finds_its_fault(name: str, frames: Frames) -> None:
    limits = DriftLimits(seam=2)
    strains = limits.strains(Beginning.of(moving(6)).drift(moving(1, 5)[0], frames))
    assert strains[name] > 1


def settled(action: Any, makes: list[Frames], limits: DriftLimits | None = None) -> tuple[Frames, Notes, int]:
    """What a watch takes of the attempts `makes`, what it said, and how many attempts it had made."""
    notes, made = Notes(), []
    watch = DriftWatch(Drifting(action, limits or DriftLimits()), 3, notes)
    watch.begin(moving(6))

    def make(attempt: int) -> Array:
        made.append(attempt)
        return floats(makes[attempt])

    frames = watch.settle(1, floats(moving(1, 5))[0], make)
    assert made == list(range(len(made)))
    return np.rint((frames.transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8), notes, len(made)


GOOD, BAD, WORSE = moving(6, 6), moving(6, 6, level=60), moving(6, 6, level=90)


def test_warn_goes_on() -> None:
    frames, notes, made = settled("warn", [BAD])
    assert np.array_equal(frames, BAD)
    assert made == 1
    assert notes.lines[0].startswith("chunk 1: seam ")
    assert "drifts" in notes.lines[1]
    assert "(limit 30)" in notes.lines[1]


def test_retry_takes_the_first_good_one() -> None:
    frames, notes, made = settled("retry", [BAD, GOOD, WORSE])
    assert np.array_equal(frames, GOOD)
    assert (made, notes.steps) == (2, -3)


def test_retry_takes_the_least_bad_in_the_end() -> None:
    frames, notes, made = settled("retry", [WORSE, BAD, WORSE, WORSE])
    assert np.array_equal(frames, BAD)
    assert made == ATTEMPTS
    assert notes.lines[-1] == "chunk 1 keeps attempt 2, the least outside"


def test_stop() -> None:
    with pytest.raises(DriftError, match=r"chunk 1 drifts, .*colour \d+ \(limit 30\); change the seed"):
        settled("stop", [BAD])
    assert settled("stop", [GOOD])[2] == 1


def test_limits_may_be_changed() -> None:
    assert DriftLimits.parsed("seam=3, colour=20") == DriftLimits(seam=3, colour=20)
    assert DriftLimits.parsed(DriftLimits(flow=0.5).spelled()) == DriftLimits(flow=0.5)
    assert settled("retry", [BAD], DriftLimits(seam=99, colour=120))[2] == 1


@pytest.mark.parametrize(
    "text", ["", "seam", "seam=", "seam=x", "size=3", "seam=1=2", "seam=-1", "sharpness=2", "flow=nan"]
)
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"drift.limits (is|are) [^(]*, expected"):
        DriftLimits.parsed(text)
