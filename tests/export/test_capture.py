from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from torch import Tensor, nn

from stt2v.engine.errors import ExportError, UsageError
from stt2v.export.capture import program_from_graph
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph
from stt2v.export.precision import in_precision
from stt2v.export.reference import seeded_inputs
from stt2v.export.step import Half, Network


@pytest.fixture(scope="module")
def program():
    return program_from_graph(toys.step())


def test_names_and_order_survive(program) -> None:
    graph = toys.step()
    assert [tensor.name for tensor in program.spec.inputs] == list(graph.inputs)
    assert [tensor.shape for tensor in program.spec.inputs] == [tuple(value.shape) for value in graph.inputs.values()]
    assert [(tensor.name, tensor.shape) for tensor in program.spec.outputs] == [
        ("x_next", toys.LATENTS),
        ("x0", toys.LATENTS),
    ]


def test_program_computes_what_the_module_does(program) -> None:
    graph = toys.step()
    inputs = seeded_inputs(graph)
    captured = program.exported.module()(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    for name, value in EagerEngine(graph).run(inputs).items():
        np.testing.assert_allclose(captured[graph.outputs.index(name)].detach().numpy(), value, rtol=1e-5, atol=1e-6)


def test_inputs_with_one_example_stay_apart() -> None:
    same = torch.zeros(toys.LATENTS)
    graph = toys.update()
    shared = {name: same if value.shape == same.shape else value for name, value in graph.inputs.items()}
    program = program_from_graph(replace(graph, inputs=shared))
    assert program.graph_hash == program_from_graph(graph).graph_hash


def test_hashes_tell_structure_from_weights(program) -> None:
    same = program_from_graph(toys.step())
    assert (same.graph_hash, same.weights_hash) == (program.graph_hash, program.weights_hash)
    other_weights = program_from_graph(toys.step(seed=1))
    assert other_weights.graph_hash == program.graph_hash
    assert other_weights.weights_hash != program.weights_hash
    other_structure = program_from_graph(toys.step(activation=nn.functional.relu))
    assert other_structure.graph_hash != program.graph_hash
    assert other_structure.weights_hash == program.weights_hash


def test_half_precision_leaves_graph_and_border_alone() -> None:
    graph = toys.step()
    halved = in_precision(graph, "fp16")
    assert {parameter.dtype for parameter in halved.module.parameters()} == {torch.float16}
    assert {parameter.dtype for parameter in graph.module.parameters()} == {torch.float32}
    assert {tensor.dtype for tensor in program_from_graph(halved).spec.outputs} == {"float32"}
    inputs = seeded_inputs(graph)
    exact, rounded = EagerEngine(graph).run(inputs)["x0"], EagerEngine(halved).run(inputs)["x0"]
    error = np.linalg.norm(np.subtract(exact, rounded)) / np.linalg.norm(exact)
    assert 0 < error < 5e-3


class Numbers(Network):
    """Its output is how far the numbers and the maps that it is given are from whole ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        error = (timestep.double() - 925.1).abs() + (conditions["vector"].double() - 0.02).abs().sum()
        assert conditions["context"].dtype == self.weight.dtype
        return x * 0 + error.to(x.dtype)


def test_numbers_keep_their_precision() -> None:
    coefficients = torch.tensor([1.0, 925.1, *[0.0] * 6])
    inputs = {"x": torch.zeros(1, 1, 2, 2), "coefficients": coefficients, "vector": torch.full((3,), 0.02)}
    graph = Graph("half", Half(Numbers()), {**inputs, "context": torch.zeros(1, 1)}, ("prediction",))
    halved = in_precision(graph, "fp16")
    assert float(halved.module(**graph.inputs).abs().max()) < 1e-4
    update = toys.update()
    assert in_precision(update, "fp16") is update


def test_module_that_casts_is_given_what_it_declares() -> None:
    class Casting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return super().forward(x.to(self.weight.dtype)).float()

    graph = Graph("casting", Casting(2, 2), {"x": torch.ones(1, 2)}, ("y",), casts=True)
    assert in_precision(graph, "fp16").module(**graph.inputs).dtype == torch.float32


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="int3"):
        in_precision(toys.update(), "int3")


def test_failure_names_the_graph() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"graph 'branch': torch\.export failed"):
        program_from_graph(Graph("branch", Branch(), {"x": torch.ones(2)}, ("y",)))
