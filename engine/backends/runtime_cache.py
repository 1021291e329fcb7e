"""Kernels that TensorRT-RTX compiled for this card, kept in the store, so that engines load in seconds the next time.

Reading one runs native code as an engine does: one that others could have written is left alone.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from stt2v.engine.store import home


def cache_file(engine: Path) -> Path:
    """Where the kernels of the engine at that path are kept; an engine that was built anew has another place."""
    facts = engine.stat()
    key = hashlib.sha256(f"{engine.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()
    return home() / "runtime-cache" / f"{engine.stem}-{key[:16]}.bin"


def read_cache(engine: Path) -> bytes:
    """What was kept, or nothing."""
    path = cache_file(engine)
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            own = facts.st_uid == os.getuid() and not facts.st_mode & 0o022
            return file.read() if own else b""
    except OSError:
        return b""


def write_cache(engine: Path, contents: bytes) -> None:
    """Keep `contents`, whole or not at all; a place that cannot be written only makes the next start slower."""
    path = cache_file(engine)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.touch(0o600)
        part.write_bytes(contents)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
