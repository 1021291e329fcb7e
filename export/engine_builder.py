"""One engine of a set, from its graph: capture, compile, parity."""

import gc
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stt2v.engine.backends import open_backend
from stt2v.engine.errors import ExportError
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.engine.parity import Parity
from stt2v.engine.progress import Progress
from stt2v.export.capture import Program, program_from_graph
from stt2v.export.compilers import Compile
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.parity import parity_of
from stt2v.export.precision import in_precision

Graphs = Mapping[str, GraphMaker]


@dataclass(frozen=True)
class EngineBuilder:
    """Makes engines with the facts of `wanted`, one graph at a time."""

    graphs: Graphs
    wanted: Manifest
    progress: Progress

    def capture(self, name: str) -> Program:
        """The program of a graph in the set's precision. Raises ExportError that names the graph."""
        return program_from_graph(in_precision(self._graph(name), self.wanted.precision))

    def begin(self, name: str, compile_program: Compile) -> Callable[[], EngineEntry]:
        """Capture a graph and begin its engine. What is left, which may run in a thread, finishes it."""
        start = time.monotonic()
        self.progress.advance("build", 0, graph=name, phase="capture")
        program = self.capture(name)
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
                self.wanted.backend,
                self.wanted.target,
                self.wanted.precision,
                *hashes,
                compiled.weight_bytes,
                compiled.activation_bytes,
                round(time.monotonic() - start, 3),
                compiled.notes,
            )

        return finished

    def parity(self, entry: EngineEntry, stage: Path) -> Parity:
        """The parity of a finished engine in `stage`. Raises ExportError when it is too far off."""
        name = entry.spec.name
        self.progress.advance("build", 0, graph=name, phase="parity", seconds=entry.seconds)
        engine = open_backend(entry.backend, entry.target).load(stage / entry.file, entry.spec)
        try:
            parity = parity_of(engine, self._graph(name), entry.precision)
        finally:
            engine.close()
        parity.check()
        return parity

    def _graph(self, name: str) -> Graph:
        graph = self.graphs[name]()
        if graph.name != name or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
            raise ExportError(f"graph {graph.name!r} is listed as {name!r}; expected one name in [a-z0-9_-]")
        return graph
