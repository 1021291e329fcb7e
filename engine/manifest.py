"""The format of an engine set: a directory with `manifest.json` and the files it lists.

    manifest.json        what the set is of and for, its engines, and the SHA-256 of every file that was built
    step.onnx ...        one file an engine
    weights.bin          the weights that engines share, where the backend keeps them apart
    parity.json          the certificate: how far each engine is from the fp32 module, as measured where it runs
    manifest.json.seal   who built this; and who certified it, parity.json.seal (`engine/seal.py`)

`engine/` owns this format because it reads it; `export/` writes it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from stt2v.engine.errors import EngineSetError
from stt2v.engine.spec import EngineSpec
from stt2v.engine.typed_json import read_as

FORMAT = 2
MANIFEST = "manifest.json"
PARITY = "parity.json"
REBUILD = "run `stt2v build-engines` again"


@dataclass(frozen=True)
class FileEntry:
    """What a file of the set must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a set: its border, its file, what runs it, what it was made from and what it costs.

    `backend`, `target` and `precision` are the set's, unless this engine had to fall back to others.
    `graph_hash` is of the structure alone and `weights_hash` of the numbers alone. `activation_bytes` is the most that
    tensors between operations take at once, without a kernel's scratch unless the backend counts it in; `seconds` is
    how long it took to compile. `notes` are further figures of the backend's own. `kept` are the
    weights that stay in half precision in an engine of precision fp8, because it would be too far off otherwise.
    """

    spec: EngineSpec
    file: str
    backend: str
    target: str
    precision: str
    graph_hash: str
    weights_hash: str
    weight_bytes: int
    activation_bytes: int
    seconds: float
    notes: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        for name in ("notes", "kept"):
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EngineEntry":
        """The inverse of `to_json`. Raises TypeError for anything else."""
        entry: EngineEntry = read_as(cls, data)
        return entry


@dataclass(frozen=True)
class Manifest:
    """What is known of an engine set. `model` is the model's declaration as JSON; `files` are by relative path."""

    stt2v: str
    model: Mapping[str, Any]
    backend: str
    target: str
    precision: str
    tools: Mapping[str, str]
    engines: tuple[EngineEntry, ...]
    files: Mapping[str, FileEntry]
    format: int = FORMAT

    @property
    def weights_hash(self) -> str:
        """One hash for the weights of all engines."""
        lines = sorted(f"{entry.spec.name} {entry.weights_hash}" for entry in self.engines)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def engines_hash(self) -> str:
        """One hash for all files of the engines, what they share included."""
        lines = sorted(f"{name} {entry.sha256}" for name, entry in self.files.items())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        engines = [entry.to_json() for entry in self.engines]
        return asdict(self) | {"engines": engines, "weights_hash": self.weights_hash}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
        """The inverse of `to_json`. Raises TypeError for anything else."""
        manifest: Manifest = read_as(cls, {key: data[key] for key in data.keys() - {"weights_hash", "digest"}})
        return manifest


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the engine set in `directory`. Raises EngineSetError when there is none or it was changed."""
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise EngineSetError(
            f"{path}: {exc.strerror or exc}; expected an engine set in {directory}; {REBUILD}"
        ) from exc
    except UnicodeDecodeError as exc:
        raise EngineSetError(f"{path}: was changed after it was built; {REBUILD}") from exc
    return _parse(path, text)


def _parse(path: Path, text: str) -> Manifest:
    try:
        data = json.loads(text)
        version = data["format"]
        manifest = Manifest.from_json(data) if version == FORMAT else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise EngineSetError(f"{path}: is not the manifest of an engine set or was changed; {REBUILD}") from exc
    if manifest is None:
        raise EngineSetError(f"{path}: has format {version!r}, this stt2v reads format {FORMAT}; {REBUILD}")
    if _render(manifest) != text:
        raise EngineSetError(f"{path}: was changed after it was built; {REBUILD}")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `directory`."""
    (directory / MANIFEST).write_text(_render(manifest), encoding="utf-8")


def _render(manifest: Manifest) -> str:
    return digested(manifest.to_json())


def digested(data: Mapping[str, Any]) -> str:
    """The one text of a manifest's JSON. It holds a digest of itself, so that a changed byte is found."""
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return json.dumps({**data, "digest": digest}, indent=1, sort_keys=True) + "\n"


def hash_file(path: Path) -> str:
    """SHA-256 of a file of any size, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, manifest: Manifest, hash_of: Callable[[Path], str] = hash_file) -> None:
    """Compare every file with its hash, as `hash_of` tells it; to be called before any of them is deserialised.

    Raises EngineSetError that names the first file that is missing, changed, or outside of `directory`.
    """
    for entry in manifest.engines:
        if entry.file not in manifest.files:
            raise EngineSetError(f"{directory / entry.file}: has no hash in {MANIFEST}; {REBUILD}")
    for name, expected in manifest.files.items():
        path = inside(directory, name)
        if not path.is_file():
            raise EngineSetError(f"{path}: is missing from the engine set; {REBUILD}")
        if path.stat().st_size != expected.bytes or hash_of(path) != expected.sha256:
            raise EngineSetError(f"{path}: is not the file that was built (another hash); {REBUILD}")


def inside(directory: Path, name: str) -> Path:
    """The file `name` of the set. Raises EngineSetError when it leads out of `directory`, also by a link."""
    relative = PurePosixPath(name)
    path = directory / name
    if relative.is_absolute() or ".." in relative.parts or not path.resolve().is_relative_to(directory.resolve()):
        raise EngineSetError(f"{name!r} in {directory / MANIFEST} leads out of the engine set; {REBUILD}")
    return path


def file_entries(
    directory: Path, names: Iterable[str], hash_of: Callable[[Path], str] = hash_file
) -> dict[str, FileEntry]:
    """The entries of the files `names` below `directory`, as they are now."""
    return {name: FileEntry(hash_of(directory / name), (directory / name).stat().st_size) for name in sorted(names)}
