"""Seals: which files this user made. A file's seal is a keyed hash of it and of the manifest that it belongs to."""

import hashlib
import hmac
from pathlib import Path

from stt2v.engine.errors import EngineSetError
from stt2v.engine.home import find_key, make_key
from stt2v.engine.manifest import MANIFEST, REBUILD, hash_file
from stt2v.engine.pinned import PINNED

SUFFIX = ".seal"


def seal(directory: Path, name: str) -> None:
    """Seal the file `name` of the set in `directory`, once it is written."""
    (directory / f"{name}{SUFFIX}").write_text(_seal_of(directory, name, make_key()) + "\n", encoding="ascii")


def signature(text: str) -> str:
    """What only this user can write about `text`."""
    return _keyed(make_key(), text)


def check_seal(directory: Path, name: str) -> None:
    """Raise EngineSetError, by the file's name, unless this user sealed it as it is, or the package pins it."""
    if not (_is_pinned(directory, name) or _is_sealed(directory, name)):
        raise EngineSetError(
            f"{directory / name}: is not as this user's store made it, or was made elsewhere; {REBUILD}, or use "
            "--trust if you know who made it"
        )


def _is_pinned(directory: Path, name: str) -> bool:
    hashes = {file: hash_file(directory / file) for file in (MANIFEST, name)}
    return any(hashes.items() <= files.items() for files in PINNED.values())


def _is_sealed(directory: Path, name: str) -> bool:
    key, path = find_key(), directory / f"{name}{SUFFIX}"
    if key is None or not path.is_file():
        return False
    return hmac.compare_digest(path.read_bytes().strip(), _seal_of(directory, name, key).encode())


def _seal_of(directory: Path, name: str, key: bytes) -> str:
    words = [name, hash_file(directory / MANIFEST), hash_file(directory / name)]
    return _keyed(key, "\n".join(words))


def _keyed(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
