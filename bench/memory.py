"""A whole run within less and less memory of the card: what it costs in time, and whether it keeps to it."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stt2v.bench.chart import Bar
from stt2v.bench.pipeline import PipelineReport, measure_pipeline
from stt2v.engine.errors import Stt2vError
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.request import Request
from stt2v.engine.size import in_words


@dataclass(frozen=True)
class Limited:
    """A run within `vram` bytes of the card (None: all that is free), or why there was none."""

    vram: int | None
    run: PipelineReport | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """The limit in words."""
        return "no limit" if self.vram is None else in_words(self.vram)


@dataclass(frozen=True)
class MemoryReport:
    """The same run within several limits, the first of which the others are compared with."""

    model: str
    rows: tuple[Limited, ...]

    def lines(self) -> list[str]:
        """The table in words."""
        return [f"{self.model}: one run in a process of its own for each limit", *map(self._line, self.rows)]

    def ratio(self, row: Limited) -> float | None:
        """How many times as long as the first."""
        first = self.rows[0].run
        return row.run.seconds / first.seconds if row.run and first else None

    def chart(self) -> tuple[str, list[Bar]]:
        """See `Charted`: the seconds of each run."""
        runs = [(row, row.run) for row in self.rows if row.run]
        return self.lines()[0], [Bar(row.name, run.seconds, self._words(row, run)) for row, run in runs]

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        rows = [
            {"vram": row.vram, "problem": row.problem, "ratio": self.ratio(row), "run": row.run and row.run.to_json()}
            for row in self.rows
        ]
        return {**asdict(self), "rows": rows}

    def _line(self, row: Limited) -> str:
        return f"  {row.name}: {self._words(row, row.run) if row.run else row.problem}"

    def _words(self, row: Limited, run: PipelineReport) -> str:
        ratio = self.ratio(row)
        return f"{run.seconds:.1f} s{f', {ratio:.2f}x' if ratio else ''}; {run.memory}"


def measure_memory(
    model: str, request: Request, engines: Path | None, limits: Sequence[int], progress: Progress
) -> MemoryReport:
    """Make the video of `request` without a limit, then within each of `limits`. One that is refused is a row, too."""
    wanted = [None, *limits]
    progress.stage("bench", len(wanted))
    rows = []
    for vram in wanted:
        # A process keeps what it once took of a card, and the highest mark of its memory.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                run = pool.submit(measure_pipeline, model, request, engines, Silent(), vram=vram).result()
                rows.append(Limited(vram, run))
            except Stt2vError as error:
                rows.append(Limited(vram, None, str(error)))
            except BrokenProcessPool:
                rows.append(Limited(vram, None, "its process was ended without a word; most likely memory ran out"))
        progress.advance("bench")
    return MemoryReport(model, tuple(rows))
