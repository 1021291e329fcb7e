"""Layers that follow each other are one, and give what they gave."""

import pytest
import torch
from torch import Tensor, nn

from stt2v.export.capture import exported_from_graph
from stt2v.export.chains import compose_layers
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph


class Chain(nn.Module):
    """x: [N, 16] -> [N, 12], by two layers of which each may have a bias."""

    def __init__(self, between: int, biases: tuple[bool, bool]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, between, bias=biases[0]), nn.Linear(between, 12, bias=biases[1])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x) / 1.0)
        return out


class Watched(Chain):
    """The same, and what is between the layers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.first(x)
        return self.second(inner), inner.clone()


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False, True), (False, False)], ids=str)
@pytest.mark.parametrize(("kind", "between", "layers"), [(Chain, 20, 1), (Chain, 4, 2), (Watched, 16, 2)])
def test_layers_are_composed_where_that_is_less_work(
    kind: type[Chain], between: int, layers: int, biases: tuple[bool, bool]
) -> None:
    torch.manual_seed(0)
    module, x = kind(between, biases), torch.randn(5, 16)
    outputs = ("y", "inner") if kind is Watched else ("y",)
    program = compose_layers(flatten(exported_from_graph(Graph("chain", module, {"x": x}, outputs))))
    assert sum(weight.ndim == 2 for weight in program.weights.values()) == layers
    places = {node.name: node.meta["val"].shape for node in program.module.graph.nodes if node.op == "placeholder"}
    assert all(places[name] == weight.shape for name, weight in program.weights.items())  # FP8 asks for them
    with torch.no_grad():
        expected, actual = module(x), program.module(*program.weights.values(), x)[0]
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert float((actual - expected).norm() / expected.norm()) < 1e-6
