"""Hashes of large files of a set that were not touched since they were hashed: gigabytes are not read at every start.

A file counts as untouched while its number, size and times on the disk are the same; among them is that of its last
change of any kind, which only the system sets. What is remembered is signed, so only this user can have written it.
"""

import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from stt2v.engine.errors import EngineSetError, OutputError
from stt2v.engine.manifest import hash_file
from stt2v.engine.media.whole import whole_file
from stt2v.engine.seal import signature

HASHES = ".hashes"
LARGE = 64 << 20  # bytes; smaller files are read in no time
SETTLED = 2.0  # seconds since a file's last change: two in quick succession may have the same time

Known = Mapping[str, tuple[list[int], str]]
"""By name what a file looked like from outside, and its hash."""


@contextmanager
def known_hashes(directory: Path) -> Iterator[Callable[[Path], str]]:
    """The SHA-256 of files of the set in `directory`; those of large ones are remembered when the block ends well."""
    known = _read(directory)
    found = dict(known)

    def hash_of(path: Path) -> str:
        name, stamp, now = str(path.relative_to(directory)), _stamp(path), time.time()
        if found.get(name, ([], ""))[0] == stamp:
            return found[name][1]
        sha256 = hash_file(path)
        if path.stat().st_size >= LARGE and path.stat().st_ctime < now - SETTLED and _stamp(path) == stamp:
            found[name] = (stamp, sha256)
        return sha256

    yield hash_of
    if found != known:
        with suppress(OSError, OutputError, EngineSetError):  # where nothing can be kept, it is hashed again next time
            _write(directory, found)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(directory: Path) -> Known:
    """What is remembered; nothing where somebody else wrote it."""
    try:
        signed, text = (directory / HASHES).read_text(encoding="utf-8").split("\n", 1)
        if hmac.compare_digest(signed, signature(text)):
            return {name: (stamp, sha256) for name, (stamp, sha256) in json.loads(text).items()}
    except (OSError, EngineSetError, ValueError, TypeError):
        pass
    return {}


def _write(directory: Path, known: Known) -> None:
    """As a new file: what has the name may be a link, by the owner of a foreign set, to another file of this user."""
    text = json.dumps(known)
    signed = f"{signature(text)}\n{text}"
    with whole_file(directory / HASHES, follow_links=False) as path:
        path.write_text(signed, encoding="utf-8")
