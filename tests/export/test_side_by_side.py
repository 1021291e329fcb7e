"""Layers that see the same rows are one, and give what they gave."""

import torch
from torch import Tensor, nn

from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.reference import seeded_inputs
from stt2v.export.side_by_side import FEWEST_ROWS, join_layers


class Attention(nn.Module):
    """x: [B, N, 16], context: [B, M, 8] -> [B, N, 24], by layers of different widths, one of them with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, width, bias=False) for width in (8, 8, 24))
        self.more, self.first, self.second = (
            nn.Linear(16, 24),
            nn.Linear(8, 24, bias=False),
            nn.Linear(8, 24, bias=False),
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        mixed = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return mixed + self.more(x) + (self.first(context) * self.second(context)).sum(1, keepdim=True)


def test_layers_with_the_same_rows_are_one() -> None:
    torch.manual_seed(0)
    inputs = {"x": torch.zeros(2, FEWEST_ROWS // 2, 16), "context": torch.zeros(2, 3, 8)}
    graph = Graph("attention", Attention(), inputs, ("y",))
    program = flatten(exported_from_graph(graph))
    joined = join_layers(program)
    shapes = {name: tuple(weight.shape) for name, weight in joined.weights.items()}
    assert shapes["p_q_weight"] == (40, 16)
    (place,) = (node for node in joined.module.graph.nodes if node.name == "p_q_weight")
    assert place.meta["val"].shape == (40, 16)  # by which FP8 tells what work a layer is
    assert len(program.weights) - len(joined.weights) == 2  # the context has few rows, and one layer has a bias
    arrays = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    with torch.no_grad():
        expected, actual = (each.module(*each.weights.values(), *arrays)[0] for each in (program, joined))
    assert float((actual - expected).norm() / expected.norm()) < 1e-6
