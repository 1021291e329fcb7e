"""What is written about progress, on a terminal and off it."""

import io
import itertools
import re

import pytest

from stt2v.engine.console import Lines, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(total: int, seconds_a_step: float, **info: object) -> list[str]:
    """What a stage of `total` steps writes when each takes `seconds_a_step`."""
    stream = io.StringIO()
    ticks = itertools.count(0.0, seconds_a_step)
    progress = Lines(stream, clock=lambda: next(ticks))
    progress.stage("generate", total)
    for _ in range(total):
        progress.advance("generate", **info)
    return stream.getvalue().splitlines()


def test_every_slow_step_has_a_line_with_the_time_left() -> None:
    begin, first, last = lines(2, 10.0, chunk=3, seconds=1.23456)
    assert begin == "generate: 2 steps"
    assert first.startswith("generate: 1/2, chunk 3 seconds 1.2, 10 s left, peak memory ")
    assert last.startswith("generate: 2/2, chunk 3 seconds 1.2, took 20.0 s, peak memory ")


def test_fast_steps_share_a_line() -> None:
    assert [line.split(",")[0] for line in lines(100, 0.125)] == [
        "generate: 100 steps",
        "generate: 40/100",
        "generate: 80/100",
        "generate: 100/100",
    ]


def test_no_time_is_foretold_before_the_first_step() -> None:
    stream = io.StringIO()
    ticks = itertools.count(0.0, 60.0)
    progress = Lines(stream, clock=lambda: next(ticks))
    progress.stage("build", 3)
    progress.advance("build", 0, graph="step", phase="capture")
    assert stream.getvalue().splitlines()[1].startswith("build: 0/3, graph step phase capture, peak memory ")


def test_a_terminal_shows_one_bar_of_each_stage() -> None:
    stream = Terminal()
    with progress_on(stream) as progress:
        for video in range(30):
            for stage in ("generate", "enhance"):
                progress.stage(stage, 2)
                progress.advance(stage, 2, chunk=video)
        before = stream.tell()
    last = stream.getvalue()[before:]
    assert (last.count("generate"), last.count("enhance"), last.count("chunk 29")) == (1, 1, 2)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_both_kinds_say_stage_steps_and_notes(stream: io.StringIO) -> None:
    with progress_on(stream) as progress:
        progress.stage("generate", 2)
        progress.note("cut [11%] of the image")
        progress.advance("generate", 2, chunk=1)
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "generate" in said
    assert "2/2" in said
    assert "chunk 1" in said
    assert "cut [11%] of the image" in said
    assert "\x1b" not in stream.getvalue() or stream.isatty()
