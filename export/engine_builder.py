"""One engine of a set, from its graph: capture, compile, parity."""

import gc
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stt2v.engine.backends import open_backend
from stt2v.engine.certificate import certify
from stt2v.engine.errors import ExportError
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.engine.parity import Parity
from stt2v.engine.progress import Progress
from stt2v.engine.reference import Reference, read_reference, write_reference
from stt2v.engine.stages.denoise import fused_steps
from stt2v.export.capture import Program, program_from_graph
from stt2v.export.card import card_to_itself
from stt2v.export.compilers import Compile
from stt2v.export.fallback import Rung, Workshop
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.precision import in_precision
from stt2v.export.reference import reference_of

Graphs = Mapping[str, GraphMaker]
FULL_BYTES, BYTES = 4, {"fp32": 4, "fp16": 2, "fp8": 2}  # of a value between layers, by precision


@dataclass(frozen=True)
class EngineBuilder:
    """Makes engines with the facts of `wanted`, one graph at a time."""

    graphs: Graphs
    wanted: Manifest
    progress: Progress

    def capture(self, name: str, precision: str) -> Program:
        """The program of a graph. Raises ExportError that names the graph."""
        return program_from_graph(in_precision(self._graph(name), precision))

    def begin(self, name: str, rung: Rung, compile_program: Compile) -> Callable[[], EngineEntry]:
        """Capture a graph and begin its engine. What is left, which may run in a thread, finishes it."""
        start = time.monotonic()
        self.progress.advance("build", 0, graph=name, phase="capture")
        program = self.capture(name, rung.precision)
        spec, hashes = program.spec, (program.graph_hash, program.weights_hash)
        self.progress.advance("build", 0, graph=name, phase="compile", seconds=time.monotonic() - start)
        finish = compile_program(program)
        del program  # what follows needs the memory
        gc.collect()

        def finished() -> EngineEntry:
            compiled = finish()
            return EngineEntry(
                spec,
                compiled.file,
                rung.backend,
                rung.target,
                rung.precision,
                *hashes,
                compiled.weight_bytes,
                compiled.activation_bytes,
                round(time.monotonic() - start, 3),
                compiled.notes,
                compiled.kept,
            )

        return finished

    def refer(self, entry: EngineEntry, stage: Path) -> Reference:
        """The reference of a finished engine, kept beside it. Raises ExportError when memory is too small."""
        name = entry.spec.name
        if kept := read_reference(stage, name):
            return kept
        self.progress.advance("build", 0, graph=name, phase="reference", seconds=entry.seconds)
        single = entry.activation_bytes * FULL_BYTES // BYTES[entry.precision]
        graph = self._graph(name)
        with card_to_itself(stage):
            made = reference_of(graph, entry.spec, activation_bytes=single)
        write_reference(stage, name, made)
        return made

    def settle(self, entry: EngineEntry, workshop: Workshop) -> tuple[EngineEntry, Parity]:
        """The engine if it is as good as it has to be, else the first that is of those it may fall back to.

        Raises ExportError when none is.
        """
        name, stage = entry.spec.name, workshop.stage
        row, tried = self._parity(entry, stage), list[str]()
        for rung in Rung.of(entry).below():
            if row.passed or self._spares(row):
                break
            tried.append(f"{Rung.of(entry)}: {row.found}")
            self.progress.note(f"{name} falls back to {rung}, because {tried[-1]}")
            (stage / entry.file).unlink(missing_ok=True)
            entry = self.begin(name, rung, workshop.compile_for(rung))()
            row = self._parity(entry, stage)
        if not self._spares(row):
            row.check()
        return entry, replace(row, fell_back_from=tuple(tried))

    def _spares(self, row: Parity) -> bool:
        """Whether the set can do without an engine that ran out of memory: nothing else would take less."""
        return not row.fits and row.graph in fused_steps(self.graphs)

    def _parity(self, entry: EngineEntry, stage: Path) -> Parity:
        reference = self.refer(entry, stage)
        self.progress.advance("build", 0, graph=entry.spec.name, phase="parity", seconds=entry.seconds)
        with card_to_itself(stage):
            return certify(open_backend(entry.backend, entry.target), stage / entry.file, entry, reference)

    def _graph(self, name: str) -> Graph:
        graph = self.graphs[name]()
        if graph.name != name or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ExportError(f"graph {graph.name!r} is listed as {name!r}; expected one name in [a-z0-9_-]")
        return graph
