"""Many videos: every job of a list ends exactly once, whatever becomes of the others."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stt2v.engine.batch.ledger import Ledger
from stt2v.engine.batch.outcome import Outcome
from stt2v.engine.batch.workshop import Resident, Workshop, resident_of
from stt2v.engine.errors import DeviceLostError, StoppedError, Stt2vError
from stt2v.engine.job import Job


def run_batch(jobs: Sequence[Job], folder: Path, workshop: Workshop) -> Iterator[Outcome]:
    """Make the videos of `jobs`, all of which go to `folder`; yields how each ends.

    What an earlier call has made is not made again, and a video that was stopped goes on. A job that fails does not
    stop the others; it is tried again by the next call. Raises OutputError, UsageError for the folder, StoppedError
    where the batch was stopped and can go on, DeviceLostError where only another process can go on.
    """
    with Ledger(folder) as ledger:
        try:
            for job in by_engines(jobs):
                yield _ended(job, ledger, workshop)
        except (KeyboardInterrupt, SystemExit):
            if ledger.is_empty:
                raise
            raise StoppedError("the batch was stopped before its end; the same command goes on") from None


def by_engines(jobs: Iterable[Job]) -> list[Job]:
    """The jobs in their order, but those for the same engines together, so that each set is loaded once."""
    groups: dict[Resident, list[Job]] = {}
    for job in jobs:
        groups.setdefault(resident_of(job), []).append(job)
    return [job for group in groups.values() for job in group]


def _ended(job: Job, ledger: Ledger, workshop: Workshop) -> Outcome:
    """What becomes of one job."""
    name = str(job.output)
    try:
        if ledger.has(job):
            return Outcome(name, "there")
        made = workshop.make(replace(job, goes_on=True))
        if made.ended:
            return Outcome(name, "shortened")
        ledger.note(job)
    except (StoppedError, DeviceLostError):
        raise
    except Stt2vError as error:
        return Outcome(name, "failed", str(error))
    except Exception as error:
        return Outcome(name, "failed", f"{type(error).__name__}: {error}")
    return Outcome(name, "made")
