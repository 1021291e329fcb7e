"""How a command keeps the runs of its videos: opened for the work, told about, and removed when they are too many."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import DeviceLostError, InputError, StoppedError, UsageError
from stt2v.engine.film import STILL
from stt2v.engine.progress import Progress
from stt2v.engine.record import Origin, placed
from stt2v.engine.request import Request, Settings
from stt2v.engine.runs.chunks import chunk_unit
from stt2v.engine.runs.environment import environment
from stt2v.engine.runs.folder import LIMIT, KeptRun, all_runs, begin_run, excess, remove_runs, resume_command
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.journal import read_journal
from stt2v.engine.runs.record import new_record, read_record
from stt2v.engine.runs.resume import Resumption
from stt2v.engine.runs.run import JOURNAL, Run
from stt2v.engine.session import Session
from stt2v.engine.size import in_words


@dataclass(frozen=True)
class Keeping:
    """folder: of all runs; discard: whether a run goes as soon as its video is whole."""

    session: Session
    folder: Path
    interrupt: Interrupt
    progress: Progress
    discard: bool

    @contextmanager
    def new(self, request: Request, output: Path) -> Iterator[Run]:
        """The run of a video that begins now. Raises StoppedError when the user has interrupted the one before."""
        self.interrupt.check()
        with self._kept(self._begun(request, output, 0, Origin())) as run:
            yield run

    @contextmanager
    def continued(self, request: Request, output: Path) -> Iterator[Run]:
        """The run of the same video where one is kept, else a new one. Raises StoppedError as `new` does."""
        self.interrupt.check()
        with self._kept(self._same(request, output) or self._begun(request, output, 0, Origin())) as run:
            yield run

    @contextmanager
    def resumed(self, how: Resumption) -> Iterator[Run]:
        """A run that goes on, or a new one that begins with chunks of another. Raises UsageError, InputError."""
        if not how.otherwise:
            self._check_same(how)
        if how.shared is None:
            with self._kept(how.kept.directory) as run:
                _check_shared(run, how.kept.record.shared)
                yield run
            return
        with self._kept(self._begun(how.request, how.output, how.shared, how.origin)) as run:
            with Run(how.kept.directory, shared=True) as other:
                _check_shared(other, how.shared)
                for unit in _units_shared(how, other):
                    run.adopt(unit, other)
            yield run

    def _same(self, request: Request, output: Path) -> Path | None:
        """Where the newest run is kept that makes what `request` does, bit for bit."""
        made = json.loads(json.dumps(self._made(request) | placed(request, Origin())))
        for kept in reversed(all_runs(self.folder)):
            record = kept.record
            if kept.is_of(output) and not record.shared and dict(record.made) == made:
                return kept.directory
        return None

    def _begun(self, request: Request, output: Path, shared: int, origin: Origin) -> Path:
        engines = self.session.engines.directory if isinstance(self.session.engines, EngineSet) else None
        picture = request.image if isinstance(request.image, Path) else None
        made = self._made(request) | placed(request, origin)
        directory = begin_run(self.folder, new_record(output, engines, made, shared), picture)
        needed, free = self.session.plan(request).run_bytes, shutil.disk_usage(directory).free
        if free < needed:
            self.progress.note(
                f"{self.folder} has {in_words(free)} free, about {in_words(needed)} may be needed: the run pauses when"
                " the disk is full; --run-dir puts it elsewhere"
            )
        return directory

    def _made(self, request: Request) -> dict[str, Any]:
        made = self.session.settings(request)
        return made | {"environment": environment(made.get("backend", ""))}

    def _check_same(self, how: Resumption) -> None:
        """Raise UsageError that names what here would make the rest of a video otherwise than its beginning."""
        settings = {field.name for field in fields(Settings)}
        here = {name: value for name, value in self._made(how.request).items() if name not in settings}
        lines = list(how.kept.settings.differences(here))
        if lines:
            raise UsageError(f"{'; '.join(lines)}; restore that, or make another video of it with -o and --from-chunk")

    @contextmanager
    def _kept(self, directory: Path) -> Iterator[Run]:
        kept = KeptRun(directory, read_record(directory))
        with Run(directory) as run:
            run.on_unit = self.interrupt.on_unit
            try:
                with self.interrupt.listening():
                    yield run
            except BaseException as error:
                if not read_journal(directory / JOURNAL)[0] and not isinstance(error, StoppedError | DeviceLostError):
                    shutil.rmtree(directory)
                    raise
                output = kept.record.output
                self.progress.note(f"what is finished is kept: {resume_command(output, self.folder)}")
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise StoppedError(f"video {output} was stopped before it was whole") from None
                raise
        if self.discard and kept.is_whole:
            list(remove_runs([kept]))
        old = excess([run for run in all_runs(self.folder) if run.is_whole])
        for gone in remove_runs([run for run in old if run.directory != directory]):
            self.progress.note(
                f"removed the run {gone.name} of {gone.record.output}: runs are kept up to {in_words(LIMIT)}"
            )


def _units_shared(how: Resumption, other: Run) -> list[str]:
    """What a take has in common with the run that it branches from; where chunks are, so is the still of the prompt."""
    assert how.shared is not None
    chunks = [chunk_unit(index) for index in range(how.shared)]
    return [*chunks, STILL] if chunks and how.request.image is None and other.has(STILL) else chunks


def _check_shared(run: Run, shared: int) -> None:
    """Raise InputError unless the first `shared` chunks are there: this run cannot make them again."""
    missing = [index for index in range(shared) if not run.has(chunk_unit(index))]
    if missing:
        raise InputError(f"chunk {missing[0]} of run {run.directory} is missing or damaged; start anew")
