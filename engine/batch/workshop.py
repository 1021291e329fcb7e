"""Where the videos of a batch are made: one after the other, with the engines of the last one still loaded."""

from dataclasses import dataclass
from pathlib import Path

from stt2v.engine.backends.base import Closing
from stt2v.engine.job import Job
from stt2v.engine.progress import Progress
from stt2v.engine.runs.flags import RunFlags
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.session import Session
from stt2v.engine.videos import Made
from stt2v.engine.views import NO_VIEWS

Resident = tuple[str, Path | None, str | None]
"""What a session is opened for: a model, a folder of engines, an enhancer."""


@dataclass(frozen=True)
class Making:
    """How all videos of a batch are made, beside what is asked of each."""

    backend: str | None
    trust: bool
    keep: RunFlags
    metadata: bool
    gpus: int = 1
    vram: int | None = None


class Workshop(Closing):
    """Makes videos; owns the session that is open."""

    def __init__(self, how: Making, interrupt: Interrupt, progress: Progress) -> None:
        self._how = how
        self._interrupt = interrupt
        self._progress = progress
        self._resident: Resident | None = None
        self._session: Session | None = None

    def make(self, job: Job) -> Made:
        """The video of `job`, once it is whole. Raises what opening its engines and making it raises."""
        self._interrupt.check()
        job.check(NO_VIEWS)
        session = self._session_for(job)
        return job.make(session, self._how.keep, self._interrupt, self._progress, metadata=self._how.metadata)

    def close(self) -> None:
        self._resident = None
        if self._session:
            self._session.close()
        self._session = None

    def _session_for(self, job: Job) -> Session:
        wanted = resident_of(job)
        if self._session is None or self._resident != wanted:
            self.close()
            model, engines, enhancer = wanted
            how = self._how
            rest = how.trust, self._progress, how.gpus, how.vram
            self._session = Session.open(model, engines, how.backend, enhancer, *rest)
            self._resident = wanted
        return self._session


def resident_of(job: Job) -> Resident:
    """What a session has to be opened for to make `job`."""
    return job.model, job.engines, job.request.enhancer
