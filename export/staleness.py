"""Which engines are there already, and why the others have to be built."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stt2v.engine.errors import EngineSetError
from stt2v.engine.manifest import Manifest
from stt2v.engine.parity import Parity, read_parity
from stt2v.engine.store import leftovers
from stt2v.engine.trust import admit
from stt2v.export.capture import Program
from stt2v.export.journal import Finished, read_journal

FACTS = ("backend", "target", "precision", "tools")
"""What shapes every engine of a set; the model's declaration does not, beyond the graphs that come of it."""

Capture = Callable[[str, str], Program]
"""Of a graph, in a precision."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one graph and why: its engine is taken over from where it is finished, or built."""

    graph: str
    reason: str
    finished: Finished | None = None


@dataclass(frozen=True)
class Survey:
    """What is there of a set: its manifest and parity when it is whole; why it has to be made anew, () when it is
    current; and what becomes of every graph. A reason that all graphs share is told once."""

    manifest: Manifest | None
    parity: tuple[Parity, ...]
    reasons: tuple[str, ...]
    decisions: tuple[Decision, ...]


def survey(
    directory: Path, wanted: Manifest, graphs: Sequence[str], texts: Mapping[str, str], capture: Capture
) -> Survey:
    """Look for the engines `graphs` of the set `wanted` in `directory`, and in what stopped builds left beside it.

    Only graphs of which there is an engine are captured, which takes seconds each. `texts` are the files beside the
    engines; `wanted` needs no engines and files yet.
    """
    manifest, reasons = _current(directory)
    if manifest:
        reasons = tuple(_facts(manifest, wanted))
    finished = [] if manifest is None or reasons else _engines_of(directory, manifest, "is current")
    for folder in leftovers(directory):
        left, _ = _current(folder)
        if left is not None and not [*_facts(left, wanted)]:
            finished += _engines_of(folder, left, "was finished by a build that was stopped")
        finished += read_journal(folder, facts_key(wanted))
    decisions = tuple(_decide(name, finished, capture) for name in graphs)
    if manifest is not None and not reasons:
        changed = (decision.reason for decision in decisions if decision.finished is None)
        reasons = (*_beside(manifest, wanted, graphs, texts), *changed)
    return Survey(manifest, read_parity(directory) if manifest else (), reasons, decisions)


def facts_key(wanted: Manifest) -> str:
    """One hash of what all engines of a set share."""
    facts = {fact: getattr(wanted, fact) for fact in FACTS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _current(directory: Path) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest of the whole set in `directory`, or why there is none."""
    if not directory.exists():
        return None, (f"{directory} does not exist",)
    try:
        return admit(directory), ()
    except EngineSetError as exc:
        return None, (str(exc),)


def _engines_of(directory: Path, manifest: Manifest, origin: str) -> list[Finished]:
    rows = read_parity(directory)
    return [
        Finished(directory, entry, manifest.files, tuple(row for row in rows if row.graph == entry.spec.name), origin)
        for entry in manifest.engines
    ]


def _decide(name: str, finished: Sequence[Finished], capture: Capture) -> Decision:
    there = [engine for engine in finished if engine.entry.spec.name == name]
    if not there:
        return Decision(name, f"graph {name}: new")
    programs = {p: capture(name, p) for p in dict.fromkeys(engine.entry.precision for engine in there)}
    changes = [[*_changes(engine, programs[engine.entry.precision])] for engine in there]
    for engine, changed in zip(there, changes, strict=True):
        if not changed:
            return Decision(name, f"graph {name}: {engine.origin}", engine)
    return Decision(name, ", ".join(changes[0]))


def _changes(engine: Finished, program: Program) -> Iterator[str]:
    entry = engine.entry
    if entry.graph_hash != program.graph_hash:
        yield f"graph {entry.spec.name}: changed"
    if entry.weights_hash != program.weights_hash:
        yield f"weights of {entry.spec.name}: changed"
    yield from (
        f"engine {row.graph}: computes wrongly, {row.found}" for row in engine.parity if not row.passed and row.fits
    )


def _facts(built: Manifest, wanted: Manifest) -> Iterator[str]:
    for fact in ("backend", "target", "precision"):
        was, now = getattr(built, fact), getattr(wanted, fact)
        if was != now:
            yield f"{fact}: was {was}, now {now}"
    yield from _differences("tool", built.tools, wanted.tools)


def _beside(built: Manifest, wanted: Manifest, graphs: Sequence[str], texts: Mapping[str, str]) -> Iterator[str]:
    """What differs and leaves the engines as they are."""
    yield from _differences("model", built.model, wanted.model)
    names = [entry.spec.name for entry in built.engines]
    yield from (f"graph {name}: no longer part of the model" for name in names if name not in graphs)
    for name, text in texts.items():
        if name not in built.files or built.files[name].sha256 != hashlib.sha256(text.encode()).hexdigest():
            yield f"file {name}: changed"


def _differences(word: str, built: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[str]:
    for key in sorted({*built, *wanted}):
        if built.get(key) != wanted.get(key):
            yield f"{word} {key}: was {built.get(key)}, now {wanted.get(key)}"
