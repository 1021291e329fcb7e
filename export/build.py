"""The recipe: weights -> graphs -> capture -> compile -> parity -> manifest."""

import gc
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import stt2v
from stt2v.engine.backends import open_backend
from stt2v.engine.errors import ExportError
from stt2v.engine.manifest import MANIFEST, PARITY, EngineEntry, Manifest, file_entries, write_manifest
from stt2v.engine.parity import Parity, read_parity, write_parity
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.seal import seal
from stt2v.export.capture import Program, program_from_graph
from stt2v.export.compilers import Compile, Compiler, find_compiler
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.parity import parity_of
from stt2v.export.precision import in_precision
from stt2v.export.staging import staged
from stt2v.export.staleness import current_manifest, stale_files, stale_reasons

Graphs = Mapping[str, GraphMaker]


@dataclass(frozen=True)
class BuiltSet:
    """An engine set that is current. `reasons` says why it was built anew; without any it was reused as it was."""

    directory: Path
    manifest: Manifest
    parity: tuple[Parity, ...]
    reasons: tuple[str, ...]


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
    """Bring the engine set in `directory` up to date; nothing half-written is left behind, whatever happens.

    `model` is the model's declaration as JSON; `files` are texts by name that belong beside the engines, such as
    tokenizers. `progress` is told graph, phase and seconds of every step, and the reasons of a rebuild. Without
    `check_parity` engines are not run, for a machine that cannot hold them.

    Raises UsageError for arguments that do not fit, ExportError when a graph cannot be compiled or is not in parity.
    """
    compiler = find_compiler(backend, target, precision)
    declaration = json.loads(json.dumps(model))  # as it will be read: tuples become lists
    wanted = Manifest(stt2v.__version__, declaration, backend, target, precision, compiler.tools(), (), {})
    build = _Build(graphs, files, compiler, wanted, progress or Silent(), check_parity and compiler.runs_here(target))
    built, reasons = build.check(directory)
    if built is not None and not reasons:
        return BuiltSet(directory, built, read_parity(directory), ())
    with staged(directory) as stage:
        manifest, table = build.make(stage)
    return BuiltSet(directory, manifest, table, reasons)


@dataclass(frozen=True)
class _Build:
    """What every step of one build needs."""

    graphs: Graphs
    files: Mapping[str, str]
    compiler: Compiler
    wanted: Manifest
    progress: Progress
    check_parity: bool

    def check(self, directory: Path) -> tuple[Manifest | None, tuple[str, ...]]:
        """The set in `directory`, if it is whole, and why it has to be built again."""
        built, reasons = current_manifest(directory)
        if built is not None:
            self.progress.stage("check", len(self.graphs))
            reasons = (
                *stale_files(built, self.files),
                *stale_reasons(built, self.wanted, self.graphs, self._captured_anew),
            )
            if self.check_parity and not reasons and not read_parity(directory):
                reasons = ("parity: was not checked",)
        for reason in reasons:
            self.progress.note(f"building: {reason}")
        return built, reasons

    def make(self, stage: Path) -> tuple[Manifest, tuple[Parity, ...]]:
        """Write the whole set into the empty directory `stage`."""
        self.progress.stage("build", len(self.graphs))
        entries, table = [], []
        with self.compiler.opened(stage, self.wanted.target, self.wanted.precision) as compile_program:
            for name in self.graphs:
                entry, parity = self._engine(name, stage, compile_program)
                entries.append(entry)
                table.extend(parity)
        for name, text in self.files.items():
            (stage / name).write_text(text, encoding="utf-8")
        names = [path.relative_to(stage).as_posix() for path in stage.rglob("*") if path.is_file()]
        manifest = replace(self.wanted, engines=tuple(entries), files=file_entries(stage, names))
        write_manifest(stage, manifest)
        seal(stage, MANIFEST)
        if table:
            write_parity(stage, table)
            seal(stage, PARITY)
        return manifest, tuple(table)

    def _engine(self, name: str, stage: Path, compile_program: Compile) -> tuple[EngineEntry, list[Parity]]:
        start = time.monotonic()
        self.progress.advance("build", 0, graph=name, phase="capture")
        program = self._program(name)
        spec, hashes = program.spec, (program.graph_hash, program.weights_hash)
        self.progress.advance("build", 0, graph=name, phase="compile", seconds=time.monotonic() - start)
        finish = compile_program(program)
        del program  # what follows needs the memory
        gc.collect()
        compiled = finish()
        seconds = time.monotonic() - start
        entry = EngineEntry(
            spec,
            compiled.file,
            *hashes,
            compiled.weight_bytes,
            compiled.activation_bytes,
            round(seconds, 3),
            compiled.notes,
        )
        self.progress.advance("build", 0, graph=name, phase="parity", seconds=seconds)
        parity = [self._parity(name, stage, entry)] if self.check_parity else []
        self.progress.advance("build", graph=name, phase="done", seconds=time.monotonic() - start)
        return entry, parity

    def _parity(self, name: str, stage: Path, entry: EngineEntry) -> Parity:
        engine = open_backend(self.wanted.backend, self.wanted.target).load(stage / entry.file, entry.spec)
        try:
            parity = parity_of(engine, self._graph(name), self.wanted.precision)
        finally:
            engine.close()
        parity.check()
        return parity

    def _graph(self, name: str) -> Graph:
        graph = self.graphs[name]()
        if graph.name != name or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ExportError(f"graph {graph.name!r} is listed as {name!r}; expected one name in [a-z0-9_-]")
        return graph

    def _program(self, name: str) -> Program:
        return program_from_graph(in_precision(self._graph(name), self.wanted.precision))

    def _captured_anew(self, name: str) -> Program:
        program = self._program(name)
        self.progress.advance("check", graph=name, phase="check")
        return program
