"""What this machine can run, and why not."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stt2v.engine.backends import BACKENDS, why_not
from stt2v.engine.backends.ort import runtime
from stt2v.engine.engine_set import declared_model
from stt2v.engine.errors import BackendError, EngineSetError, Stt2vError
from stt2v.engine.home import find_key, home
from stt2v.engine.inventory import StoredSet, inventory
from stt2v.engine.machine import Card, cards, free_disk, host_memory, installed, processors
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import MODELS
from stt2v.engine.size import in_words
from stt2v.engine.store import SHIPPED, find_set

RTX_CARDS = ("sm_86", "sm_89", "sm_120", "sm_121")
"""Compute capabilities of the cards that TensorRT-RTX is for and engines are built for here."""

Mark = Literal["ok", "--", "BAD"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: as it should be, absent without being needed, or bad; and in words."""

    subject: str
    mark: Mark
    words: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Everything worth knowing about this machine. Raises nothing: what is missing is a finding."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("processor", "ok", f"{processors()} cores, {in_words(host_memory())} of memory")
    yield _gpu()
    yield _onnxruntime()
    for backend in BACKENDS:
        if backend != "onnxruntime":
            yield _backend(backend)
    yield _export()
    yield from _store()
    options = build_options(_cards())
    for model in MODELS:
        yield _engine_set(model, options)


def build_options(there: tuple[Card, ...]) -> str:
    """How to build for the first card of this machine, as options of `build-engines`; nothing for its processor."""
    if not there:
        return ""
    if there[0].target in RTX_CARDS:
        return f" --backend tensorrt-rtx --target {there[0].target}"
    return " --backend inductor --precision fp16"


def _cards() -> tuple[Card, ...]:
    with suppress(OSError):
        return cards()
    return ()


def _gpu() -> Finding:
    try:
        there = cards()
    except OSError as error:
        return Finding("gpu", "BAD", str(error))
    if not there:
        return Finding("gpu", "--", "no NVIDIA driver found; the onnxruntime backend runs on the processor")
    each = (f"{card.name} ({card.target}), {in_words(card.bytes)}, driver {card.driver}" for card in there)
    return Finding("gpu", "ok", "; ".join(each))


def _onnxruntime() -> Finding:
    """The one backend that every machine should have."""
    try:
        library = runtime()
    except (BackendError, ImportError) as error:
        return Finding("onnxruntime", "BAD", str(error))
    return Finding("onnxruntime", "ok", f"{library.__version__} with {', '.join(library.get_available_providers())}")


def _backend(name: str) -> Finding:
    reason = why_not(name)
    return Finding(name, "--", reason) if reason else Finding(name, "ok", "runs here")


def _export() -> Finding:
    if version := installed("torch"):
        return Finding("export", "ok", f"torch {version}; engines can be built here")
    return Finding("export", "--", "torch is not installed; to build engines, pip install 'stt2v[export]'")


def _store() -> Iterator[Finding]:
    """The disk, the key, and those sets of the store that need something."""
    sets = [found for found in inventory() if found.directory.parent != SHIPPED]
    taken = in_words(sum(found.bytes for found in sets))
    yield Finding("store", "ok", f"{home()}: engine sets take {taken}, {in_words(free_disk(home()))} are free")
    try:
        find_key()
    except EngineSetError as error:
        yield Finding("store", "BAD", str(error))
    yield from (_stored(found) for found in sets if found.state != "current" or not found.runs_here)


def _stored(found: StoredSet) -> Finding:
    mark: Mark = "BAD" if found.state == "refused" else "--"
    elsewhere = () if found.runs_here or found.manifest is None else (f"is for {found.manifest.target}",)
    return Finding(found.name, mark, "; ".join((*found.reasons, *elsewhere)))


def _engine_set(model: str, options: str) -> Finding:
    """Its manifest and its backend are tried; its files are verified when it is used, which takes long."""
    try:
        directory = find_set(model)
    except EngineSetError as error:
        better = f"; for this card: `stt2v build-engines --model {model}{options}`" if options else ""
        return Finding(model, "--", f"{error}{better}")
    try:
        manifest = read_manifest(directory)
        declared_model(directory, manifest)
    except Stt2vError as error:
        return Finding(model, "BAD", f"engine set {directory} cannot be used: {error}")
    if reason := why_not(manifest.backend, manifest.target):
        return Finding(model, "BAD", f"engine set {directory} cannot be used: {reason}")
    return Finding(model, "ok", f"engine set {directory}")
