"""Many videos: every job of a list ends exactly once, whatever becomes of the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from stt2v.engine.batch.ledger import Ledger
from stt2v.engine.batch.outcome import Outcome
from stt2v.engine.batch.workshop import Resident, Workshop, resident_of
from stt2v.engine.errors import DeviceLostError, StoppedError, Stt2vError
from stt2v.engine.job import Job

MakeAll = Callable[[Sequence[Job]], Iterable[tuple[Job, Outcome]]]
"""Makes jobs, in any order; gives each with how it ended, as soon as it has."""


def run_batch(jobs: Sequence[Job], ledger: Ledger, make_all: MakeAll) -> Iterator[Outcome]:
    """Make the videos of `jobs` but for those that are in `ledger`, which is closed in the end; yields how each ends.

    A job that fails does not stop the others; it is tried again by the next call, and so is one that ended early.
    Raises StoppedError where the batch was stopped and can go on, DeviceLostError where only another process can.
    """
    with ledger:
        waiting = []
        for job in jobs:
            if outcome := _before(job, ledger):
                yield outcome
            else:
                waiting.append(job)
        try:
            for job, outcome in make_all(waiting):
                if outcome.state == "made":
                    ledger.note(job)
                yield outcome
        except (KeyboardInterrupt, SystemExit):
            if ledger.is_empty:
                raise
            raise StoppedError("the batch was stopped before its end; the same command goes on") from None


def in_turn(workshop: Workshop, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Make jobs one after the other."""
    for job in by_engines(jobs):
        yield job, ended(job, str(job.output), workshop)


def ended(job: Job, name: str, workshop: Workshop) -> Outcome:
    """What becomes of one job, called `name`. Raises StoppedError, DeviceLostError."""
    try:
        made = workshop.make(replace(job, goes_on=True))
    except (StoppedError, DeviceLostError):
        raise
    except Exception as error:
        return Outcome(
            name, "failed", str(error) if isinstance(error, Stt2vError) else f"{type(error).__name__}: {error}"
        )
    return Outcome(name, "shortened" if made.ended else "made")


def by_engines(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in their order, but those for the same engines together, so that each set is loaded once."""
    groups: dict[Resident, list[Job]] = {}
    for job in jobs:
        groups.setdefault(resident_of(job), []).append(job)
    return [job for group in groups.values() for job in group]


def _before(job: Job, ledger: Ledger) -> Outcome | None:
    """How a job ended that is not to be made: it was, or it cannot be."""
    name = str(job.output)
    try:
        return Outcome(name, "there") if ledger.has(job) else None
    except Stt2vError as error:
        return Outcome(name, "failed", str(error))
