"""Why an engine set has to be built again."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from stt2v.engine.errors import EngineSetError
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.engine.trust import admit
from stt2v.export.capture import Program

Capture = Callable[[str], Program]
"""Captures the graph of that name; costs seconds, so it is asked for last."""


def current_manifest(directory: Path) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest of the whole set in `directory`, or why there is none."""
    if not directory.exists():
        return None, (f"{directory} does not exist",)
    try:
        return admit(directory), ()
    except EngineSetError as exc:
        return None, (str(exc),)


def stale_files(built: Manifest, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Which of the texts beside the engines are others now."""
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return tuple(
        f"file {name}: changed"
        for name, hash_ in hashes.items()
        if name not in built.files or built.files[name].sha256 != hash_
    )


def stale_reasons(built: Manifest, wanted: Manifest, names: Collection[str], capture: Capture) -> tuple[str, ...]:
    """What differs between the set `built` and one that would have the facts of `wanted` and the graphs `names`.

    Graphs are captured only when all else is equal. `wanted` needs no engines and files yet.
    """
    entries = {entry.spec.name: entry for entry in built.engines}
    reasons = (*_facts(built, wanted), *_names(entries, names))
    return reasons or tuple(reason for name in names for reason in _graph(entries[name], capture(name)))


def _facts(built: Manifest, wanted: Manifest) -> Iterator[str]:
    for fact in ("backend", "target", "precision"):
        was, now = getattr(built, fact), getattr(wanted, fact)
        if was != now:
            yield f"{fact}: was {was}, now {now}"
    yield from _changes("model", built.model, wanted.model)
    yield from _changes("tool", built.tools, wanted.tools)


def _changes(word: str, built: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    for key in sorted({*built, *wanted}):
        if built.get(key) != wanted.get(key):
            yield f"{word} {key}: was {built.get(key)}, now {wanted.get(key)}"


def _names(entries: Mapping[str, EngineEntry], names: Collection[str]) -> Iterator[str]:
    yield from (f"graph {name}: new" for name in names if name not in entries)
    yield from (f"graph {name}: no longer part of the model" for name in entries if name not in names)


def _graph(entry: EngineEntry, program: Program) -> Iterator[str]:
    if entry.graph_hash != program.graph_hash:
        yield f"graph {entry.spec.name}: changed"
    if entry.weights_hash != program.weights_hash:
        yield f"weights of {entry.spec.name}: changed"
