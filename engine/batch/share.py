"""The folder of a batch where several machines write to it: anything that fsspec opens."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from stt2v.engine.backends.base import Closing
from stt2v.engine.batch.ledger import LEDGER, FolderLedger, Ledger, unit_of
from stt2v.engine.errors import BackendError, OutputError
from stt2v.engine.home import home
from stt2v.engine.job import Job

OUTBOX = "outbox"


class Share:
    """A folder by its URL or path. Raises BackendError without fsspec, OutputError for a place that is not opened."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import fsspec

            self._files, self._folder = fsspec.core.url_to_fs(url)
            self._files.makedirs(self._folder, exist_ok=True)
        except ModuleNotFoundError as error:
            raise BackendError("a batch on a cluster needs fsspec; pip install 'stt2v[cluster]'") from error
        except (OSError, ValueError, ImportError) as error:
            raise OutputError(f"folder {url} cannot be opened ({error}); choose another with --out") from error

    def outbox(self, name: str) -> Path:
        """Where to make the file `name`: the same place each time on a machine, so that what was begun goes on."""
        folder = home() / OUTBOX / self.url.replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def put(self, path: Path) -> None:
        """Move a file of the outbox into the folder, where it appears whole. Raises OutputError."""
        part = f"{self._folder}/.part-{uuid4().hex}"  # of its own: another machine may put the same file
        try:
            self._files.put_file(str(path), part)
            self._files.mv(part, f"{self._folder}/{path.name}")
        except OSError as error:
            raise OutputError(f"{self.url}/{path.name} cannot be written ({error}); mend that and repeat") from error
        path.unlink()

    def bytes(self, name: str) -> int | None:
        """How long a file of the folder is; None where there is none."""
        try:
            size: int = self._files.size(f"{self._folder}/{name}")
        except FileNotFoundError:
            return None
        return size

    def write(self, name: str, value: Any) -> None:
        """Keep what JSON can hold under `name`."""
        self._files.makedirs(f"{self._folder}/{LEDGER}", exist_ok=True)
        self._files.pipe_file(f"{self._folder}/{name}", json.dumps(value).encode())

    def read(self, name: str) -> Any:
        """What `write` has kept; None where there is nothing whole."""
        try:
            return json.loads(self._files.cat_file(f"{self._folder}/{name}"))
        except (FileNotFoundError, ValueError):
            return None


class SharedLedger(Closing):
    """See `Ledger`. A small file for each job, because not every place that fsspec opens can append to one."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.is_empty = True

    def has(self, job: Job) -> bool:
        """Whether the job is done and its video is there. Raises UsageError, InputError for its request."""
        length = self._share.bytes(job.output.name)
        found = length is not None and self._share.read(_place(job)) == {"bytes": length}
        self.is_empty = self.is_empty and not found
        return found

    def note(self, job: Job) -> None:
        """The video of `job` is whole."""
        self._share.write(_place(job), {"bytes": self._share.bytes(job.output.name)})
        self.is_empty = False

    def close(self) -> None:
        """Nothing is held."""


def ledger_of(folder: str) -> Ledger:
    """The ledger of the batch in `folder`, a path or a URL. Raises OutputError, UsageError, BackendError."""
    return SharedLedger(Share(folder)) if "://" in folder else FolderLedger(Path(folder))


def _place(job: Job) -> str:
    return f"{LEDGER}/{unit_of(job).replace(' ', '.')}"
