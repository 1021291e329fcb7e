"""Bringing an engine set up to date: what is current is taken over, the rest is built, all of it appears at once."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import stt2v
from stt2v.engine.errors import StoppedError, UsageError
from stt2v.engine.lock import build_lock
from stt2v.engine.manifest import Manifest
from stt2v.engine.parity import Parity
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.reference import reference_file
from stt2v.engine.store import leftovers
from stt2v.export.capture import Program
from stt2v.export.compilers import Compiler, find_compiler
from stt2v.export.engine_builder import EngineBuilder, Graphs
from stt2v.export.fallback import Rung, Workshop
from stt2v.export.journal import Journal
from stt2v.export.set_maker import GO_ON, Outcome, SetMaker
from stt2v.export.staging import remove_leftovers, staged
from stt2v.export.staleness import Survey, facts_key, survey

Review = Callable[[Survey], None]
"""Sees what is there already and what has to be built, before anything is done about it; it may raise."""


@dataclass(frozen=True)
class BuiltSet:
    """An engine set that is current. `reasons` says why it was made anew; without any it was left as it was."""

    directory: Path
    manifest: Manifest
    parity: tuple[Parity, ...]
    reasons: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    def lines(self) -> Iterator[str]:
        """What became of every engine and why, and how far each is off."""
        yield f"{self.directory}: {'built' if self.reasons else 'is current, nothing to do'}"
        parity = {row.graph: row for row in self.parity}
        for outcome in self.outcomes:
            row = parity.get(outcome.graph)
            rel = f", rel {row.rel:.1e} of {row.reference}, limit {row.limit:g}" if row else ""
            fallen = f"; fell back from {', '.join(row.fell_back_from)}" if row and row.fell_back_from else ""
            yield f"  {outcome.action}: {outcome.reason}{rel}{fallen}"

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "directory": str(self.directory),
            "reasons": self.reasons,
            "engines": [asdict(outcome) for outcome in self.outcomes],
            "parity": [row.to_json() for row in self.parity],
        }


def build_engine_set(
    model: Mapping[str, Any],
    graphs: Graphs,
    backend: str,
    precision: str,
    target: str,
    directory: Path,
    progress: Progress | None = None,
    check_parity: bool = True,
    files: Mapping[str, str] = MappingProxyType({}),
) -> BuiltSet:
    """Bring the engine set in `directory` up to date, see `EngineSetBuild`."""
    build = EngineSetBuild.of(model, graphs, backend, precision, target, directory, progress, check_parity, files)
    return build.run()


@dataclass(frozen=True)
class EngineSetBuild:
    """The build of one engine set in `directory`.

    `files` are texts by name that belong beside the engines, such as tokenizers. Without `check_parity` engines are
    not run and have no reference, for a machine that cannot hold them; no video is made with such a set.
    """

    builder: EngineBuilder
    compiler: Compiler
    directory: Path
    files: Mapping[str, str]
    check_parity: bool

    @classmethod
    def of(
        cls,
        model: Mapping[str, Any],
        graphs: Graphs,
        backend: str,
        precision: str,
        target: str,
        directory: Path,
        progress: Progress | None = None,
        check_parity: bool = True,
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> "EngineSetBuild":
        """The build of a set of these properties; `model` is the model's declaration as JSON.

        `progress` is told graph, phase and seconds of every step, and why the set is made anew. Raises UsageError for
        arguments that do not fit.
        """
        compiler = find_compiler(backend, target, precision)
        declaration = json.loads(json.dumps(model))  # as it will be read: tuples become lists
        wanted = Manifest(stt2v.__version__, declaration, backend, target, precision, compiler.tools(), (), {})
        builder = EngineBuilder(graphs, wanted, progress or Silent())
        return cls(builder, compiler, directory, files, check_parity)

    def survey(self) -> Survey:
        """What is there already, and why the rest has to be built. Captures graphs of which there is an engine."""
        told, graphs = self.builder.progress, [*self.builder.graphs]
        if self.directory.exists() or leftovers(self.directory):
            told.stage("check", len(graphs))
        found = survey(self.directory, self.builder.wanted, graphs, self.files, self._checked)
        if found.manifest and not found.reasons:
            found = replace(found, reasons=tuple(self._unchecked(found)))
        return found

    def run(self, jobs: int = 1, only: Collection[str] = (), review: Review | None = None) -> BuiltSet:
        """Take over what is current, also from a build that was stopped, and build the rest; all of it appears at once.

        Up to `jobs` compilers run side by side. With `only` no other graphs are built. Without a `review`
        the reasons are told.

        Raises ExportError for graphs that cannot be compiled or are not in parity, once all others are done;
        StoppedError when it was stopped, or something is left to do, and can go on.
        """
        self.check_names(only)
        told = self.builder.progress
        with build_lock(self.directory, lambda: told.note(f"waiting for another build of {self.directory} to end")):
            found = self.survey()
            (review or self._tell_reasons)(found)
            if found.manifest is not None and not found.reasons:
                remove_leftovers(self.directory)
                outcomes = tuple(Outcome(decision.graph, "reused", decision.reason) for decision in found.decisions)
                return BuiltSet(self.directory, found.manifest, found.parity, (), outcomes)
            with staged(self.directory) as stage:
                return self._make(stage, found, jobs, only)

    def _tell_reasons(self, found: Survey) -> None:
        for reason in found.reasons:
            self.builder.progress.note(f"building: {reason}")

    def check_names(self, only: Collection[str]) -> None:
        """Raise UsageError for a graph that the set does not have."""
        if unknown := sorted({*only} - {*self.builder.graphs}):
            raise UsageError(f"graph {unknown[0]!r} is not known; choose of {', '.join(self.builder.graphs)}")

    def _make(self, stage: Path, found: Survey, jobs: int, only: Collection[str]) -> BuiltSet:
        """Write the whole set into the empty directory `stage`."""
        wanted, decisions = self.builder.wanted, found.decisions
        todo = [
            decision
            for decision in decisions
            if not decision.finished and decision.graph in (only or self.builder.graphs)
        ]
        self.builder.progress.stage("build", len(decisions))
        journal, workshop = Journal(stage, facts_key(wanted), self.builder.graphs), Workshop(stage)
        maker = SetMaker(self.builder, workshop, journal, self.check_parity, self._certifies)
        with _resumable(maker), workshop:
            workshop.compile_for(Rung.of(wanted))
            maker.adopt(decisions)
            remove_leftovers(self.directory, keep=stage)
            maker.build(todo, jobs)
        maker.check_complete()
        manifest, parity = maker.finish(self.files)
        outcomes = tuple(maker.outcomes[decision.graph] for decision in decisions)
        return BuiltSet(self.directory, manifest, parity, found.reasons, outcomes)

    def _unchecked(self, found: Survey) -> Iterator[str]:
        """What a set that was built without checks lacks."""
        if self.check_parity and not all(
            reference_file(self.directory, name).is_file() for name in self.builder.graphs
        ):
            yield "reference: was not made"
        elif self._certifies and not found.parity:
            yield "parity: was not checked"

    @property
    def _certifies(self) -> bool:
        return self.check_parity and self.compiler.runs_here(self.builder.wanted.target)

    def _checked(self, name: str, precision: str) -> Program:
        program = self.builder.capture(name, precision)
        self.builder.progress.advance("check", graph=name, phase="check")
        return program


@contextmanager
def _resumable(maker: SetMaker) -> Iterator[None]:
    """Say that a build that is stopped can go on, where it can."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if not maker.finished:
            raise
        raise StoppedError(f"stopped with {maker.finished} of {maker.wanted} engines finished; {GO_ON}") from stop
