"""A whole run, from the request to the MP4: how long each stage took beside what the plan said it would."""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stt2v.bench.chart import Bar
from stt2v.engine.duration import in_time
from stt2v.engine.engine_set import set_of
from stt2v.engine.machine import peak_memory
from stt2v.engine.progress import Progress
from stt2v.engine.request import Request
from stt2v.engine.run_costs import run_cost
from stt2v.engine.session import Session
from stt2v.engine.size import in_words
from stt2v.engine.videos import generate_video


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one stage: as planned from its engines alone, and as it took."""

    stage: str
    planned: float
    taken: float


@dataclass(frozen=True)
class PipelineReport:
    """One run. seconds: opening the engine set and writing the file included; bytes: the most host memory held, and of
    a card what PyTorch held of it, 0 without one."""

    model: str
    frames: int
    engines: Path
    measured: bool
    stages: tuple[StageTimes, ...]
    seconds: float
    planned_bytes: int
    used_bytes: int
    planned_card_bytes: int = 0
    used_card_bytes: int = 0

    @property
    def memory(self) -> str:
        """What memory was used and planned, in words."""
        host = f"host memory {in_words(self.used_bytes)}, planned {in_words(self.planned_bytes)}"
        if not self.used_card_bytes:
            return host
        return f"card {in_words(self.used_card_bytes)}, planned {in_words(self.planned_card_bytes)}; {host}"

    def lines(self) -> list[str]:
        """The figures in words."""
        source = "certificates" if self.measured else "a table"
        rate = self.frames / self.seconds
        return [
            f"{self.model}: {self.frames} frames in {in_time(self.seconds)}, {rate:.2f} a second, with {self.engines}",
            *(f"  {each.stage}: {each.taken:.1f} s, planned {each.planned:.1f} s by {source}" for each in self.stages),
            f"  {self.memory}",
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "engines": str(self.engines)}

    def chart(self) -> tuple[str, list[Bar]]:
        """See `Charted`: seconds of the stages, as they took and, fainter, as they were planned."""
        bars = (
            bar
            for each in self.stages
            for bar in (
                Bar(each.stage, each.taken, f"{each.taken:.1f} s"),
                Bar("", each.planned, f"{each.planned:.1f} s planned", faint=True),
            )
        )
        return self.lines()[0], [*bars]


class Stopwatch:
    """Takes the time of stages, each from its beginning to that of the next, and passes on what it is told."""

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress, self._clock = progress, clock
        self._begun: dict[str, float] = {}

    def stage(self, name: str, total: int) -> None:
        self._begun.setdefault(name, self._clock())
        self._progress.stage(name, total)

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        self._progress.advance(name, steps, **info)

    def note(self, line: str) -> None:
        self._progress.note(line)

    def taken(self) -> dict[str, float]:
        """Seconds of each stage; the last one ends now."""
        ends = [*list(self._begun.values())[1:], self._clock()]
        return {name: end - start for (name, start), end in zip(self._begun.items(), ends, strict=True)}


def measure_pipeline(
    model: str,
    request: Request,
    engines: Path | None,
    progress: Progress,
    gpus: int = 1,
    vram: int | None = None,
) -> PipelineReport:
    """Make the video of `request` in a temporary folder. Raises what `generate` does."""
    began, watch = time.monotonic(), Stopwatch(progress)
    opened = Session.open(model, engines, progress=progress, gpus=gpus, vram=vram)
    with opened as session, tempfile.TemporaryDirectory() as folder:
        settings, own = request.resolve(session.model), set_of(session.engines)
        budget = own.budget if own else None
        planned = run_cost(session.model, settings, session.plan(request), engines, budget=budget, gpus=gpus)
        made = generate_video(session, request, Path(folder) / "out.mp4", watch)
        taken = watch.taken()
    assert planned.engines is not None  # the session has opened them
    return PipelineReport(
        model,
        made.plan.num_frames,
        planned.engines,
        planned.measured,
        tuple(StageTimes(stage.stage, stage.seconds, taken[stage.stage]) for stage in planned.stages),
        time.monotonic() - began,
        planned.host_bytes,
        peak_memory(),
        max(stage.bytes for stage in planned.stages),
        _card_bytes(),
    )


def _card_bytes() -> int:
    """The most that PyTorch has held of a card in this process, which has made the video."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_reserved() if torch and torch.cuda.is_available() else 0
