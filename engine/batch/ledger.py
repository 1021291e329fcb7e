"""What a batch has made: a journal beside its videos, so that the same command goes on where it was stopped."""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Protocol

from stt2v.engine.backends.base import Closing
from stt2v.engine.errors import OutputError
from stt2v.engine.job import Job
from stt2v.engine.manifest import hash_file
from stt2v.engine.models import find_model
from stt2v.engine.runs.journal import Entry, Journal
from stt2v.engine.runs.run import locked, pausing

LEDGER = ".stt2v-batch"


class Ledger(Protocol):
    """The finished jobs of a batch."""

    def has(self, job: Job) -> bool:
        """Whether the job is done and its video is as it was made. Raises UsageError, InputError for its request."""
        ...

    def note(self, job: Job) -> None:
        """The video of `job` is whole. Raises StoppedError when the disk is full."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether no job is done."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FolderLedger(Closing):
    """The finished jobs of the batch in `folder`, which is made where there is none; one process works on it at a time.

    An entry's unit is a video's name and what it was made of: a job that has changed is another one. Raises
    OutputError for a folder that cannot be made, UsageError when another process works on it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(folder / LEDGER, f"batch {folder}")
            self._journal = Journal(folder / LEDGER)
        except OSError as error:
            raise OutputError(
                f"folder {folder} cannot be made or written ({error.strerror}); choose another"
            ) from error

    def has(self, job: Job) -> bool:
        """See `Ledger`."""
        entry = self._journal.entries.get(unit_of(job))
        path = job.output
        return bool(entry and path.is_file() and path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256)

    def note(self, job: Job) -> None:
        """See `Ledger`."""
        with pausing(self._folder):
            self._journal.append(Entry(unit_of(job), hash_file(job.output), job.output.stat().st_size))

    @property
    def is_empty(self) -> bool:
        """See `Ledger`."""
        return not self._journal.entries

    def close(self) -> None:
        """Let other processes have the folder."""
        self._lock.close()


def unit_of(job: Job) -> str:
    """The name of the video and a digest of all that is asked of it. Raises UsageError, InputError."""
    asked = {"model": job.model, **job.request.resolve(find_model(job.model)).to_json()}
    return f"{job.output.name} {hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]}"
