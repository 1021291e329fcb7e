"""The ways to run one graph that are compared: as written, by PyTorch's compiler, and by our engine."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stt2v.engine.backends.inductor import steady_convolutions
from stt2v.engine.backends.inductor_card import CudaCard
from stt2v.engine.backends.inductor_recording import Recording
from stt2v.export.capture import exported_from_graph
from stt2v.export.graph import Graph
from stt2v.export.inductor_builder import compile_graph
from stt2v.export.precision import in_precision
from stt2v.export.reference import seeded_inputs
from stt2v.export.to_inductor import lower

Call = Callable[[], tuple[Tensor, ...]]
"""Runs a graph once; without gradients it is called by whoever times it."""

Prepare = Callable[[Graph, str], tuple[Call, Mapping[str, int]]]
"""Makes a graph ready on a device; also returns notes."""


ENGINES = ("fp32", "fp16", "fp8")
"""The variants that are our engines, by their precisions."""


def on_device(graph: Graph, device: str) -> Graph:
    """`graph` with its weights and seeded inputs on `device`."""
    inputs = {name: torch.from_numpy(array).to(device) for name, array in seeded_inputs(graph).items()}
    return replace(graph, module=graph.module.eval().to(device), inputs=inputs)


def reference(graph: Graph, device: str) -> tuple[Call, Mapping[str, int]]:
    """float32 throughout, which every other variant is compared with."""
    torch.backends.cudnn.allow_tf32 = False
    made = on_device(graph, device)
    return lambda: _tuple(made.module(**made.inputs)), {}


def eager(graph: Graph, device: str) -> tuple[Call, Mapping[str, int]]:
    """As upstream runs its networks: float32 weights under fp16 autocast, operation by operation."""
    made = on_device(graph, device)

    def call() -> tuple[Tensor, ...]:
        with torch.autocast(device, torch.float16, enabled=device == "cuda"):
            return _tuple(made.module(**made.inputs))

    return call, {}


def compiled(graph: Graph, device: str) -> tuple[Call, Mapping[str, int]]:
    """Plain torch.compile of the network in fp16 (on a CPU in fp32)."""
    made = on_device(in_precision(graph, "fp16" if device == "cuda" else "fp32"), device)
    function = torch.compile(made.module)
    return lambda: _tuple(function(**made.inputs)), {}


def engine(precision: str) -> Prepare:
    """What the backend `inductor` makes of the graph, but that all layers that gain by FP8 are in it.

    A build leaves out those that hurt too much, by runs that take longer than this does; rel says how far off all are.
    """

    def prepare(graph: Graph, device: str) -> tuple[Call, Mapping[str, int]]:
        made = on_device(in_precision(graph, precision), device)
        program, counts, _ = lower(exported_from_graph(made), device, spares=False)
        arguments = [*program.weights.values(), *made.inputs.values()]
        artifact = compile_graph(program.module, arguments)

        def call() -> tuple[Tensor, ...]:
            with steady_convolutions():
                return tuple(artifact(*arguments))

        return call, counts

    return prepare


def as_engines_run(call: Call) -> Call:
    """`call`, which was called before, as an engine does it on a card from its second run on: recorded."""
    card = CudaCard()
    recording = Recording.of(card, card.pool(), call, (), ())
    return lambda: tuple(recording.replay(()))


VARIANTS: Mapping[str, Prepare] = {
    "eager": eager,
    "compile": compiled,
    **{precision: engine(precision) for precision in ENGINES},
}


def _tuple(outputs: Any) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
