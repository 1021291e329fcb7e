"""A captured program as a function of weights and inputs: what is left out, and what is written into."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import FlatProgram, arguments, flatten, is_steady
from stt2v.export.graph import Graph

aten = torch.ops.aten


def flat(module: nn.Module, **inputs: Tensor) -> FlatProgram:
    return flatten(exported_from_graph(Graph("network", module, inputs, ("y",))))


class Dropped(nn.Module):
    """x -> the same, some of it dropped where it is `always`; as it is otherwise."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x + 1, 0.5, training=self.always or self.training) / 1.0


def test_dropout_is_left_out_where_it_drops_nothing() -> None:
    x = torch.randn(64)
    program = flat(Dropped(False), x=x)
    assert [node.target for node in program.module.graph.nodes if node.op == "call_function"] == [aten.add.Tensor]
    (dropped,) = flat(Dropped(True), x=x).module(x)
    assert 0 < int((dropped == 0).sum()) < 64


class Counting(nn.Module):
    """x: [2, 8] -> a sum with what is counted in a buffer; both are written into, x by a view too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        x.view(-1).mul_(2)
        return x.relu_() + self.calls


def test_a_program_that_writes_gives_what_it_did_and_keeps_nothing() -> None:
    x = torch.randn(2, 8)
    program, given = flat(Counting(), x=x), x.clone()
    for _ in range(2):
        (actual,) = program.module(*program.weights.values(), given)
        assert torch.equal(actual, (2 * x).relu() + 1)
    assert torch.equal(given, x)


def test_arguments_and_what_is_the_same_each_time() -> None:
    graph = flat(nn.Sequential(nn.Linear(4, 4, bias=False), Dropped(True)), input=torch.zeros(2, 4)).module.graph
    (linear,), (dropout,) = (
        graph.find_nodes(op="call_function", target=target) for target in (aten.linear.default, aten.dropout.default)
    )
    assert arguments(linear) == (*linear.args[:2], None)
    assert (is_steady(linear), is_steady(dropout), is_steady(linear.args[0])) == (True, False, False)
