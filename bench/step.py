"""`stt2v bench step`: one graph as our engine runs it, beside what a user would otherwise have, in the same run."""

import itertools
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import torch
from numpy.linalg import norm

from stt2v.bench.chart import Bar
from stt2v.bench.timing import Ceilings, device_name, measure_ceilings
from stt2v.bench.variants import VARIANTS
from stt2v.bench.worker import READY, REFERENCE, Outputs, Result, serve
from stt2v.engine.errors import UsageError
from stt2v.engine.models import find_model
from stt2v.engine.progress import Progress
from stt2v.export.recipes import recipe_for

BASELINE = "eager"


@dataclass(frozen=True)
class Row:
    """One variant: time, distance from float32 (of its worst output), and what it took.

    `problem` says why any of that is missing.
    """

    graph: str
    variant: str
    result: Result | None = None
    rel: float | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"graph": self.graph, "variant": self.variant, "rel": self.rel, "problem": self.problem}
        if self.result:
            data |= {key: value for key, value in asdict(self.result).items() if key != "outputs"}
        return data


@dataclass(frozen=True)
class StepReport:
    """All variants of some graphs on one machine."""

    model: str
    machine: str
    torch: str
    ceilings: Ceilings
    rows: tuple[Row, ...]

    def ratio(self, row: Row) -> float | None:
        """How many times faster than the baseline."""
        names = (row.graph, BASELINE)
        baseline = next((other.result for other in self.rows if (other.graph, other.variant) == names), None)
        return baseline.timing.median / row.result.timing.median if baseline and row.result else None

    def lines(self) -> list[str]:
        """The table in words."""
        limits = f"{self.ceilings.teraflops:.0f} TFLOP/s, {self.ceilings.gigabytes:.0f} GB/s measured"
        head = f"{self.model} on {self.machine}, torch {self.torch} ({limits})"
        return [head, *(self._line(row) for row in self.rows)]

    def _line(self, row: Row) -> str:
        if row.result is None:
            return f"  {row.graph} {row.variant}: {_last_line(row.problem)}"
        time, ratio = row.result.timing, self.ratio(row)
        words = f"{time.median:.1f} ms ({time.fastest:.1f} to {time.slowest:.1f} of {time.calls})"
        words += f", {ratio:.2f}x of {BASELINE}" if ratio else ""
        words += f", rel {row.rel:.1e}" if row.rel is not None else f", rel not known ({_last_line(row.problem)})"
        gib = (row.result.peak_bytes - row.result.weight_bytes) / 2**30
        words += f", {gib:.1f} GiB of activations" if row.result.peak_bytes else ""
        return f"  {row.graph} {row.variant}: {words}, ready in {row.result.prepare_seconds:.0f} s"

    def chart(self) -> tuple[str, list[Bar]]:
        """See `Charted`: the median of each variant."""
        bars = []
        for row in self.rows:
            if row.result:
                time, ratio = row.result.timing.median, self.ratio(row)
                words = f"{time:.1f} ms{f', {ratio:.2f}x' if ratio else ''}"
                bars.append(Bar(f"{row.graph} {row.variant}", time, words, faint=row.variant == BASELINE))
        return self.lines()[0], bars

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        rows = [row.to_json() | {"ratio": self.ratio(row)} for row in self.rows]
        return {
            "model": self.model,
            "machine": self.machine,
            "torch": self.torch,
            "ceilings": asdict(self.ceilings),
            "rows": rows,
        }


def measure_step(
    model: str,
    graphs: Sequence[str],
    variants: Sequence[str],
    device: str,
    progress: Progress,
    patience: float | None = None,
) -> StepReport:
    """Measure `variants` of `graphs` of `model` with random weights, beside the same in float32.

    They compile in processes beside each other, and are timed one after another; one that is not ready after
    `patience` seconds is left out. Raises UsageError for a variant or a graph that is not known.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UsageError(f"variant {name!r} is not known; choose one of {', '.join(VARIANTS)}")
    known = recipe_for(find_model(model), None).graphs
    if unknown := [name for name in graphs if name not in known]:
        raise UsageError(f"graph {unknown[0]!r} is not known; choose of {', '.join(known)}")
    pairs = list(itertools.product(graphs, variants))
    progress.stage("bench", len(pairs))
    # A reference takes the most memory by far, so each has the device for itself.
    references = {graph: _Worker.start(model, graph, REFERENCE, device).finish() for graph in graphs}
    end = None if patience is None else time.monotonic() + patience
    workers = {pair: _Worker.start(model, *pair, device) for pair in pairs}
    words = {pair: worker.receive(end) for pair, worker in workers.items()}  # all are ready before any is timed
    report = StepReport(model, device_name(device), torch.__version__, measure_ceilings(device), ())
    for graph, variant in pairs:
        ready = words[graph, variant] == READY
        outcome = workers[graph, variant].measure() if ready else words[graph, variant]
        report = replace(report, rows=(*report.rows, _row(graph, variant, outcome, references[graph])))
        progress.note(report.lines()[-1])  # what is known is not lost when the rest is cut short
        progress.advance("bench")
    return report


@dataclass(frozen=True)
class _Worker:
    """The process of one variant and our end of the pipe to it."""

    process: SpawnProcess
    pipe: Connection

    @classmethod
    def start(cls, model: str, graph: str, variant: str, device: str) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, model, graph, variant, device))
        process.start()
        theirs.close()
        return cls(process, ours)

    def receive(self, end: float | None = None) -> Any:
        """What it says next. A process that has said nothing by `end`, on the monotonic clock, is ended."""
        try:
            if end is not None and not self.pipe.poll(max(end - time.monotonic(), 0.0)):
                self.process.kill()
                self.process.join()
                return "was not ready in time"
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            return f"the process ended with code {self.process.exitcode} and no word; most likely memory ran out"

    def measure(self) -> Any:
        """Have it measure."""
        self.pipe.send("go")
        return self.finish()

    def finish(self) -> Any:
        """The last that it says, once it has given back its memory."""
        outcome = self.receive()
        self.process.join()
        return outcome


def _last_line(problem: str | None) -> str:
    """Of a traceback, what went wrong."""
    return ["", *(problem or "").strip().splitlines()][-1]


def _row(graph: str, variant: str, outcome: Result | str, reference: Outputs | str) -> Row:
    if not isinstance(outcome, Result):
        return Row(graph, variant, problem=outcome)
    if isinstance(reference, str):
        return Row(graph, variant, outcome, problem=reference)
    rels = [norm(a - b) / norm(b) for a, b in zip(outcome.outputs, reference, strict=True)]
    return Row(graph, variant, outcome, float(np.max(rels)))  # NaN where any is
