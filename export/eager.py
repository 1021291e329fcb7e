"""A graph's torch module as an engine: the reference of every other backend."""

import torch

from stt2v.engine.backends.base import Closing, Value, Values
from stt2v.engine.backends.host import host_inputs
from stt2v.engine.errors import BackendError
from stt2v.engine.spec import EngineSpec
from stt2v.export.graph import Graph


class EagerEngine(Closing):
    """Runs a graph as it is written, without gradients: NumPy arrays in and out.

    The spec's outputs are known only once the module ran, so making one runs it on the graph's example inputs, unless
    `spec` is given. The module has to be ready to run on `device`.
    """

    def __init__(self, graph: Graph, spec: EngineSpec | None = None, device: str = "cpu") -> None:
        self._graph: Graph | None = graph
        self._device = device
        graph.module.eval()
        self.spec = spec or graph.spec(_call(graph, dict(graph.inputs)))

    def run(self, inputs: Values) -> dict[str, Value]:
        if self._graph is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; make it again")
        arrays = host_inputs(self.spec, inputs)
        tensors = {name: torch.tensor(array, device=self._device) for name, array in arrays.items()}
        outputs = _call(self._graph, tensors)
        # A module may return an input or a buffer of its own; the copy keeps later runs from changing it.
        return {name: tensor.cpu().numpy().copy() for name, tensor in zip(self._graph.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._graph = None


@torch.no_grad()
def _call(graph: Graph, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    result = graph.module(**inputs)
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)
