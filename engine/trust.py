"""Which engine sets may be opened: deserialising an engine runs native code, so all is checked before the first.

A set is opened when this user's store sealed it, when the package pins it, or when the user says so; and only if every
file is the one that was built, lies in the set, and belongs to somebody who could change this program anyway.
"""

import os
from contextlib import nullcontext
from pathlib import Path

from stt2v.engine.errors import EngineSetError
from stt2v.engine.hashes import known_hashes
from stt2v.engine.manifest import MANIFEST, PARITY, Manifest, hash_file, inside, read_manifest, verify
from stt2v.engine.paths import exists, is_file
from stt2v.engine.seal import check_seal


def admit(directory: Path, trust: bool = False, anew: bool = False) -> Manifest:
    """The manifest of the set in `directory`, which may be opened; with `trust` seals and owners do not count.

    A large file that was not touched since it was hashed is not hashed again, unless `anew`.

    Raises EngineSetError that names the first file that is missing, changed, foreign or outside of the set.
    """
    _check_owner(directory, trust)
    _check_file(directory, MANIFEST, trust)
    manifest = read_manifest(directory)
    for name in manifest.files:
        _check_owner(inside(directory, name), trust)
    with nullcontext(hash_file) if anew else known_hashes(directory) as hash_of:
        verify(directory, manifest, hash_of)
    if (directory / PARITY).exists():
        _check_file(directory, PARITY, trust)
    return manifest


def _check_file(directory: Path, name: str, trust: bool) -> None:
    """For a file that no manifest has the hash of."""
    path = inside(directory, name)
    if is_file(path) and not trust:
        _check_owner(path, trust)
        check_seal(directory, name)


def _check_owner(path: Path, trust: bool) -> None:
    """This user, or whoever installed this package."""
    owners = {os.geteuid(), Path(__file__).stat().st_uid}
    if not trust and exists(path) and path.stat().st_uid not in owners:
        raise EngineSetError(
            f"{path}: belongs to another user (uid {path.stat().st_uid}), who could change it at any time; build the "
            "set yourself, or use --trust if you know who made it"
        )
