"""A graph: one network or step with fixed shapes, ready to be captured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from stt2v.engine.spec import EngineSpec, TensorSpec


@dataclass(frozen=True)
class Graph:
    """A module whose forward takes tensors by keyword and returns a tensor or a tuple of tensors.

    `inputs` are examples that fix names, shapes and types (in the order of the engine's inputs); `outputs` are the
    names of what forward returns. A module that `casts` takes and returns float32 whatever its weights are in; others
    are given tensors of their weights' type.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    casts: bool = False

    def spec(self, outputs: tuple[Tensor, ...]) -> EngineSpec:
        """The border of this graph, given what it returned (real or fake tensors)."""
        return EngineSpec(
            self.name,
            tuple(tensor_spec(name, tensor) for name, tensor in self.inputs.items()),
            tuple(tensor_spec(name, tensor) for name, tensor in zip(self.outputs, outputs, strict=True)),
        )


GraphMaker = Callable[[], Graph]
"""Makes a graph when it is needed, so that only one full-size module is in memory at a time."""


def tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    """The border description of one tensor."""
    return TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
