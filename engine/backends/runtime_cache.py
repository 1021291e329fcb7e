"""Kernels that TensorRT-RTX compiled for this card, kept in the store, so that engines load in seconds the next time.

Reading them runs native code as an engine does, so the file begins with a keyed hash, by this user's key, of the rest.
"""

import contextlib
import hashlib
import hmac
import os
from pathlib import Path

from stt2v.engine.errors import EngineSetError
from stt2v.engine.home import find_key, home, make_key, private_folder

HASH = hashlib.sha256


def cache_file(engine: Path) -> Path:
    """Where the kernels of the engine at that path are kept; an engine that was built anew has another place."""
    facts = engine.stat()
    key = HASH(f"{engine.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()
    return home() / "runtime-cache" / f"{engine.stem}-{key[:16]}.bin"


def read_cache(engine: Path) -> bytes:
    """What was kept, or nothing where there is none that this user kept."""
    try:
        key, kept = find_key(), cache_file(engine).read_bytes()
    except (OSError, EngineSetError):
        return b""
    seal, contents = kept[: HASH().digest_size], kept[HASH().digest_size :]
    own = key is not None and hmac.compare_digest(seal, hmac.digest(key, contents, HASH))
    return contents if own else b""


def write_cache(engine: Path, contents: bytes) -> None:
    """Keep `contents`, whole or not at all; a place that cannot be written only makes the next start slower."""
    path = cache_file(engine)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        key = make_key()
        private_folder(path.parent)
        part.write_bytes(hmac.digest(key, contents, HASH) + contents)
        part.replace(path)
    except (OSError, EngineSetError):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
