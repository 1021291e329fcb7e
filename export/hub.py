"""The hub of models: what a repository holds, and its files, through huggingface-hub.

The library reads `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` when it is imported, `HF_TOKEN` at every request.
"""

import errno
import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

from stt2v.engine.errors import ExportError
from stt2v.engine.progress import Progress
from stt2v.export.pull_lock import Fingerprint, Snapshot
from stt2v.export.quiet import quiet

MIB = 2**20
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Remote:
    """A file of a repository at one commit."""

    repository: str
    commit: str
    name: str
    fingerprint: Fingerprint


def offline() -> bool:
    """Whether the user wants no request to be made."""
    return constants.HF_HUB_OFFLINE


def list_files(repository: str, commit: str | None = None) -> Snapshot:
    """What `repository` holds at `commit`, or now. Raises ExportError."""
    with _explained(repository):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(repository, revision=commit, files_metadata=True)
        files = {file.rfilename: _fingerprint(file) for file in info.siblings or ()}
    return Snapshot(info.sha or "", files)


def _fingerprint(file: RepoSibling) -> Fingerprint:
    if file.lfs:
        return Fingerprint(file.lfs["size"], file.lfs["sha256"])
    return Fingerprint(file.size or 0, file.blob_id or "")


def list_cached(repository: str) -> Snapshot:
    """What the library's cache holds of `repository`; its files bear their hashes as names.

    Raises ExportError when it holds nothing.
    """
    try:
        [revision] = [
            revision
            for cached in scan_cache_dir(constants.HF_HUB_CACHE).repos
            if (cached.repo_id, cached.repo_type) == (repository, "model")
            for revision in cached.revisions
            if "main" in revision.refs
        ]
        files = {
            file.file_path.relative_to(revision.snapshot_path).as_posix(): Fingerprint(
                file.size_on_disk, file.blob_path.name
            )
            for file in revision.files
        }
    except (CacheNotFound, ValueError) as error:
        raise ExportError(
            f"HF_HUB_OFFLINE is set and {repository} is not in {constants.HF_HUB_CACHE}; unset it, or fill the cache"
        ) from error
    return Snapshot(revision.commit_hash, files)


def find_cached(remote: Remote) -> Path | None:
    """The file in the library's cache, where other programs may have put it."""
    found = try_to_load_from_cache(remote.repository, remote.name, revision=remote.commit)
    return Path(found).resolve() if isinstance(found, str) else None


def fetch(remote: Remote, partial: Path, progress: Progress) -> None:
    """Download the file to `partial`, going on after what is there already. Raises ExportError."""
    size = remote.fingerprint.size
    with _explained(remote.repository), quiet("huggingface_hub"), partial.open("ab", buffering=0) as raw:
        if offline():
            raise OfflineModeIsEnabled
        if raw.tell() > size:
            raw.truncate(0)
            raw.seek(0)
        disable_progress_bars()  # there is one already
        url = hf_hub_url(remote.repository, remote.name, revision=remote.commit)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        stage = f"{remote.repository}/{remote.name} (MiB)"
        progress.stage(stage, -(-size // MIB))
        with _Reporting(raw, functools.partial(progress.advance, stage)) as file:
            http_get(url, file, resume_size=raw.tell(), headers=headers, expected_size=size)


class _Reporting(io.BufferedWriter):
    """A file that tells, MiB by MiB, how much of it is there."""

    def __init__(self, raw: io.FileIO, advance: Callable[[int], None]) -> None:
        super().__init__(raw)
        self._advance = advance
        self._bytes = raw.tell()
        advance(self._bytes // MIB)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write, and tell."""
        before, self._bytes = self._bytes, self._bytes + len(data)
        self._advance(self._bytes // MIB - before // MIB)
        return super().write(data)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Every error of the library as one line that says what to do; a full disk is none of its errors."""
    try:
        yield
    except HfHubHTTPError as error:
        raise ExportError(_explain(repository, error.response.status_code)) from error
    except OfflineModeIsEnabled as error:
        raise ExportError(f"HF_HUB_OFFLINE is set and not all of {repository} is here; unset it and pull") from error
    except Exception as error:  # the library has used three clients so far, each with a tree of errors of its own
        if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
            raise
        raise ExportError(
            f"{repository} could not be read from {constants.ENDPOINT} ({type(error).__name__}); check the network and "
            "pull again, it goes on where it stopped"
        ) from error


def _explain(repository: str, status: int) -> str:
    page = f"{constants.ENDPOINT}/{repository}"
    if status in (401, 403):
        return f"{repository} is closed to you ({status}); accept its licence at {page}, then set HF_TOKEN"
    if status == 404:
        return f"{page} has no such repository, commit or file (404); check HF_ENDPOINT, or delete pull.lock.json"
    return f"{page} answered {status}; pull again later, it goes on where it stopped"
