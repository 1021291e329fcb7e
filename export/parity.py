"""Parity of an engine with the torch module of its graph."""

from stt2v.engine.backends.base import Engine
from stt2v.engine.parity import Parity, compare, limit_for
from stt2v.export.graph import Graph
from stt2v.export.reference import reference_of


def parity_of(engine: Engine, graph: Graph, precision: str, seed: int = 0) -> Parity:
    """`engine` beside the module of `graph`, which is in float32. Raises BackendError when the engine does not run."""
    reference = reference_of(graph, engine.spec, seed)
    limit = limit_for(precision, reference.made_in)
    return compare(graph.name, engine.run(reference.inputs(engine.spec)), reference.outputs, limit)
