"""What engine sets there are: of which size, when they were last used, and why they are not as they should be."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from stt2v.engine.backends import runs_here
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.lock import build_lock
from stt2v.engine.machine import installed, used_disk
from stt2v.engine.manifest import MANIFEST, Manifest, read_manifest
from stt2v.engine.models import MODELS
from stt2v.engine.parity import read_parity
from stt2v.engine.paths import is_file
from stt2v.engine.seal import check_seal
from stt2v.engine.store import SHIPPED, check_in_store, leftover_of, store

USED = ".used"
"""An empty file of a set whose time says when the set was last opened."""

State = Literal["current", "stale", "refused", "unfinished"]


@dataclass(frozen=True)
class StoredSet:
    """One set. `reasons` say why it is not current; `runs_here`, whether this machine has what runs it."""

    name: str
    directory: Path
    state: State
    reasons: tuple[str, ...]
    bytes: int
    used: datetime | None
    manifest: Manifest | None
    runs_here: bool

    def to_json(self) -> dict[str, Any]:
        """All but the engines."""
        facts = ("backend", "target", "precision", "tools", "stt2v")
        known = {fact: getattr(self.manifest, fact) for fact in facts} if self.manifest else {}
        texts = {"directory": str(self.directory), "used": self.used.isoformat() if self.used else None}
        own = {key: value for key, value in vars(self).items() if key != "manifest"}
        return own | texts | known | ({"model": self.manifest.model["name"]} if self.manifest else {})


def mark_used(directory: Path) -> None:
    """Note that a set of the store was opened now."""
    if directory.parent == store():
        with contextlib.suppress(OSError):  # a store that is only read from
            (directory / USED).touch()


def inventory() -> list[StoredSet]:
    """All sets of the store, the shipped ones, and what stopped builds left. No file but the manifests is hashed."""
    built = sorted(path for path in store().glob("*") if path.is_dir()) if store().is_dir() else []
    return [stored_set(path) for path in (*sorted(SHIPPED.iterdir()), *built)]


def find_stored(name: str) -> StoredSet:
    """The set of that name, or in the folder of that path. Raises UsageError when there is none."""
    sets = {found.name: found for found in inventory()}
    if name in sets:
        return sets[name]
    if is_file(Path(name) / MANIFEST):
        return stored_set(Path(name))
    raise UsageError(f"engine set {name!r} is not known; `stt2v engines list` has them: {', '.join(sets)}")


def prune(found: StoredSet) -> bool:
    """Remove a set of the store, or what a build left; whether it was, for one that a build works on stays."""
    directory = found.directory
    try:
        with build_lock(leftover_of(directory) or directory, _refuse):
            if directory.is_symlink():
                directory.unlink()
            else:
                shutil.rmtree(directory)
    except BlockingIOError:
        return False
    return True


def _refuse() -> None:
    raise BlockingIOError


def stored_set(directory: Path) -> StoredSet:
    """The set in `directory` as it is, whatever that is."""
    manifest, state, reasons = _examined(directory)
    used = directory / USED
    return StoredSet(
        directory.name,
        directory,
        state,
        reasons,
        used_disk(directory),
        datetime.fromtimestamp(used.stat().st_mtime, UTC) if used.exists() else None,
        manifest,
        manifest is not None and runs_here(manifest.backend, manifest.target),
    )


def _examined(directory: Path) -> tuple[Manifest | None, State, tuple[str, ...]]:
    if of := leftover_of(directory):
        return None, "unfinished", (f"left by a build of {of.name} that was stopped",)
    try:
        if directory.parent == store():
            check_in_store(directory)
        manifest = read_manifest(directory)
        check_seal(directory, MANIFEST)
    except EngineSetError as error:
        return None, "refused", (str(error),)
    reasons = (*_other_tools(manifest), *_other_declaration(manifest), *_wrong_engines(directory))
    return manifest, "stale" if reasons else "current", reasons


def _wrong_engines(directory: Path) -> Iterator[str]:
    try:
        rows = read_parity(directory)
    except EngineSetError as error:
        yield str(error)
    else:
        wrong = (row for row in rows if not row.passed and row.fits)
        yield from (f"engine {row.graph}: computes wrongly, {row.found}" for row in wrong)


def _other_tools(manifest: Manifest) -> Iterator[str]:
    """Those that are here in another version. Without them there is nothing to build it again with."""
    for tool, was in manifest.tools.items():
        now = installed(tool) or installed(f"{tool}-gpu")
        if now not in (None, was):
            yield f"tool {tool}: was {was}, now {now}"


def _other_declaration(manifest: Manifest) -> Iterator[str]:
    """What this version declares of the model otherwise, beyond what `build-engines` lets one choose."""
    was = manifest.model
    if was["name"] not in MODELS:
        yield f"model {was['name']}: is not known to this stt2v"
        return
    chosen = {key: was.get(key) for key in ("width", "height", "enhancing", "warning")}
    now = json.loads(json.dumps(MODELS[was["name"]].to_json() | chosen))
    for key in sorted({*was, *now}):
        if was.get(key) != now.get(key):
            yield f"model {key}: was {was.get(key)}, now {now.get(key)}"
