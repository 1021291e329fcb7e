"""The lock file of a weight folder: which commits and files it was made from, so that a later pull gets the same."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from stt2v.engine.errors import ExportError

LOCK = "pull.lock.json"
FORMAT = 1
SHA256, GIT_BLOB = "sha256", "git_blob"


@dataclass(frozen=True)
class Fingerprint:
    """Size in bytes and hash of a file as the hub tells them: SHA-256 of a large file, git's blob id of a small one."""

    size: int
    digest: str

    def __post_init__(self) -> None:
        """Raise ValueError when this is no such hash: it also names a file."""
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.digest):
            raise ValueError(f"{self.digest!r} is neither SHA-256 nor git's blob id")

    @classmethod
    def of(cls, path: Path) -> Self:
        """Size and SHA-256 of the file at `path`."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, SHA256).hexdigest())

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` is there and has this size and hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, self._hash).hexdigest() == self.digest

    def _hash(self) -> Any:
        if self.kind == SHA256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    @property
    def kind(self) -> str:
        """Which hash it is."""
        return SHA256 if len(self.digest) == 64 else GIT_BLOB

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, self.kind: self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(int(data["size"]), str(data[SHA256] if SHA256 in data else data[GIT_BLOB]))


@dataclass(frozen=True)
class Snapshot:
    """Files of a repository at one commit."""

    commit: str
    files: Mapping[str, Fingerprint]

    def to_json(self) -> dict[str, Any]:
        return {"commit": self.commit, "files": {name: print_.to_json() for name, print_ in self.files.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(str(data["commit"]), {name: Fingerprint.from_json(entry) for name, entry in data["files"].items()})


@dataclass(frozen=True)
class Converted:
    """A file of the folder that was made from others, whose hashes `sources` are."""

    sources: tuple[str, ...]
    result: Fingerprint

    def to_json(self) -> dict[str, Any]:
        return {**self.result.to_json(), "from": list(self.sources)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(tuple(data["from"]), Fingerprint.from_json(data))


@dataclass(frozen=True)
class PullLock:
    """Snapshots by repository, converted files by their place in the folder."""

    repositories: Mapping[str, Snapshot] = field(default_factory=dict)
    converted: Mapping[str, Converted] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The lock of `folder`, empty where there is none. Raises ExportError when it cannot be understood."""
        path = folder / LOCK
        if not path.exists():
            return cls()
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}, expected {FORMAT}")
            return cls(
                {name: Snapshot.from_json(entry) for name, entry in data["repositories"].items()},
                {name: Converted.from_json(entry) for name, entry in data["converted"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ExportError(
                f"{path} is no lock of a pull ({error}); delete it to lock what is published now"
            ) from error

    def write(self, folder: Path) -> None:
        """Put it into `folder`, whole or not at all."""
        data = {
            "format": FORMAT,
            "repositories": {name: snapshot.to_json() for name, snapshot in self.repositories.items()},
            "converted": {name: converted.to_json() for name, converted in self.converted.items()},
        }
        staged = folder / f".{LOCK}"
        staged.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
        staged.replace(folder / LOCK)
