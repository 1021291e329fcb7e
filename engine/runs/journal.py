"""The journal of a run: one line for each finished unit, on disk before anything relies on it."""

import errno
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from stt2v.engine.typed_json import read_as


@dataclass(frozen=True)
class Entry:
    """A finished unit: its file in the run's directory, what its bytes hash to, and how many there are."""

    unit: str
    sha256: str
    bytes: int


class Journal:
    """An append-only file of JSON lines. A later line about a unit replaces an earlier one.

    A process may be killed in the middle of a line: what follows the last whole one is cut off when the journal is
    opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries, whole = read_journal(path)
        with path.open("ab") as file:
            file.truncate(whole)
            os.fsync(file.fileno())

    def append(self, entry: Entry) -> None:
        """Add a line and wait until it is on disk. Raises OSError; a half-written line is cut off again."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
        self.entries[entry.unit] = entry


def read_journal(path: Path) -> tuple[dict[str, Entry], int]:
    """The entries of a journal by unit, and how many of its bytes are whole lines. No journal is an empty one."""
    entries: dict[str, Entry] = {}
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        entry = _entry(line)
        if entry is None:
            break
        entries[entry.unit] = entry
        whole += len(line)
    return entries, whole


def _entry(line: bytes) -> Entry | None:
    """What one line says; None for a torn one."""
    try:
        entry: Entry | None = read_as(Entry, json.loads(line)) if line.endswith(b"\n") else None
    except (ValueError, TypeError, RecursionError):
        return None
    return entry
