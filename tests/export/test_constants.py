"""What depends on weights alone is worked out beforehand, and nothing else."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.capture import exported_from_graph
from stt2v.export.constants import work_out
from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.graph import Graph
from stt2v.export.reference import seeded_inputs


class Numbered(nn.Module):
    """x: [3, 8] -> the same, with an embedding of each row's number, by layers, and a layer that sees x."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.own = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(len(x)).float()[:, None] * torch.ones(8)
        embedding: Tensor = self.second(functional.silu(self.first(places.sin()))) * self.scale
        return x + self.own(x * self.scale) + embedding


def test_embeddings_of_numbers_are_weights() -> None:
    torch.manual_seed(0)
    graph = Graph("numbered", Numbered(), {"x": torch.zeros(3, 8)}, ("y",))
    program = flatten(exported_from_graph(graph))
    known = work_out(program)
    assert _layers(program) == 3
    assert _layers(known) == 1
    assert sorted(known.weights) == ["mul_1_known", "p_own_bias", "p_own_weight", "p_scale"]
    places = [node.name for node in known.module.graph.find_nodes(op="placeholder")]
    assert places == [*known.weights, "x"]
    x = torch.from_numpy(seeded_inputs(graph)["x"])
    expected, actual = (each.module(*each.weights.values(), x)[0] for each in (program, known))
    assert torch.equal(actual, expected)


class Table(nn.Module):
    """x: [3, 4] -> 1000 times a table, through a layer and 300 operations, and x."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.table = nn.Linear(4, 4), nn.Parameter(torch.rand(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(self.table)
        for _ in range(300):
            rows = rows.tanh()
        return rows[None].expand(1000, -1, -1) + x


class Written(Table):
    """The same with x written into what the layer gives, and that into x."""

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(self.table)
        rows += x
        x.copy_(rows / 1.0)
        return rows * x


class Drawn(Table):
    """The same with what is drawn anew each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(torch.rand_like(self.table))


def test_what_repeats_a_result_is_no_weight() -> None:
    known = work_out(_program(Table()))
    assert {name: weight.numel() for name, weight in known.weights.items()} == {"unsqueeze_known": 12}


def test_what_is_not_the_same_each_time_stays() -> None:
    program = _program(Drawn())
    assert [*work_out(program).weights] == [*program.weights]


def test_what_is_written_into_later_is_known_as_it_was() -> None:
    module, x = Written(), torch.rand(3, 4)
    known = work_out(_program(module))
    assert [*known.weights] == ["linear_known"]
    (actual,) = known.module(*known.weights.values(), x)
    assert torch.allclose(actual, module(x.clone()))


def _program(module: nn.Module) -> FlatProgram:
    return flatten(exported_from_graph(Graph("network", module, {"x": torch.zeros(3, 4)}, ("y",))))


def _layers(program: FlatProgram) -> int:
    return len(program.module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default))
