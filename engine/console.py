"""Progress on a console: a live bar on a terminal, plain lines into a pipe or a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from stt2v.engine.machine import peak_memory
from stt2v.engine.progress import Progress

PAUSE = 5.0  # seconds between two plain lines of the same stage


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Progress]:
    """The progress that suits `stream`, until the block ends."""
    if not stream.isatty():
        yield Lines(stream)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
    )
    with Bars(*columns, console=Console(file=stream)) as bars:
        yield Live(bars)


class Live:
    """One bar a stage, by rich; of a stage that begins again, as with every video of a batch, the newest."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def stage(self, name: str, total: int) -> None:
        """Add the bar of a new stage."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks[name])
        self._tasks[name] = self._bars.add_task(name, total=total, info="", memory="")

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """Move the bar of that stage."""
        self._bars.update(self._tasks[name], advance=steps, info=_words(info), memory=_peak_memory())

    def note(self, line: str) -> None:
        """Print the line above the bars."""
        self._bars.console.print(line, markup=False, highlight=False)


@dataclass
class _Count:
    """How far one stage is; times are the clock's."""

    total: int
    began: float
    last: float
    done: int = 0

    def when(self, now: float) -> str:
        seconds = now - self.began
        if self.done >= self.total:
            return f"took {seconds:.1f} s"
        return f"{seconds / self.done * (self.total - self.done):.0f} s left" if self.done else ""


class Lines:
    """Plain lines: one when a stage begins, one when it ends, and one every few seconds between."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._counts: dict[str, _Count] = {}

    def stage(self, name: str, total: int) -> None:
        """Write that the stage begins."""
        now = self._clock()
        self._counts[name] = _Count(total, now, now)
        self.note(f"{name}: {total} steps")

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """Count the steps; write a line when the last one is old or the stage is done."""
        count = self._counts[name]
        count.done += steps
        now = self._clock()
        if count.done < count.total and now - count.last < PAUSE:
            return
        count.last = now
        parts = (
            f"{name}: {count.done}/{count.total}",
            _words(info),
            "" if "left" in info else count.when(now),
            _peak_memory(),
        )
        self.note(", ".join(filter(None, parts)))

    def note(self, line: str) -> None:
        """Write the line as it is."""
        self._stream.write(f"{line}\n")
        self._stream.flush()


def _words(info: dict[str, object]) -> str:
    return " ".join(
        f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in info.items()
    )


def _peak_memory() -> str:
    """The most host memory this process has held so far."""
    return f"peak memory {peak_memory() / 2**30:.2f} GiB"
