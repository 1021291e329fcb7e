"""References: in float32 wherever it can be, the same by halves and layer by layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from torch import nn

from stt2v.engine.errors import ExportError
from stt2v.export import reference
from stt2v.export.eager import EagerEngine
from stt2v.export.families.steps import StepGraphs
from stt2v.export.graph import Graph
from stt2v.export.precision import in_precision
from stt2v.export.reference import FULL, HALF, in_half, placed, reference_of, seeded_inputs
from stt2v.export.step import HalvesApart

STEP = toys.step()
SPEC = EagerEngine(STEP).spec


def rel(actual: object, expected: object) -> float:
    a, b = (np.asarray(value, np.float64) for value in (actual, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("name", list(toys.GRAPHS))
def test_inputs_and_outputs_are_the_module_s(name: str) -> None:
    graph = toys.GRAPHS[name]()
    with EagerEngine(graph) as engine:
        made, expected = reference_of(graph, engine.spec), engine.run(seeded_inputs(graph))
    assert made.made_in == FULL
    for output, sample in made.outputs.items():
        np.testing.assert_allclose(sample.values, np.ravel(expected[output]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [5, 2])
def test_halves_apart_are_the_step(tokens: int) -> None:
    """Also where what both halves share is as long as there are halves."""

    def conditions(halves: int) -> dict[str, torch.Tensor]:
        return {"context": torch.zeros(halves, tokens, toys.CONTEXT), "label": torch.zeros(1, 1, 1, toys.CHANNELS)}

    class Shared(toys.ToyNetwork):
        def forward(self, x: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
            return super().forward(x, timestep, **{**given, "label": given["label"].mean(0, keepdim=True)})

    def shared(halves: int) -> dict[str, torch.Tensor]:
        return conditions(halves) | {"label": torch.zeros(2, 1, 1, toys.CHANNELS)}

    network = toys.with_weights(Shared())
    graphs = StepGraphs("", lambda: network, toys.RULE, lambda: torch.zeros(toys.LATENTS), shared)
    graph = graphs.step()
    assert graph.module.paired == {"context"}
    inputs = {name: torch.from_numpy(array) for name, array in seeded_inputs(graph).items()}
    for apart, together in zip(HalvesApart(graph.module)(**inputs), graph.module(**inputs), strict=True):
        torch.testing.assert_close(apart, together)


def test_layerwise_is_the_same_and_leaves_no_hooks() -> None:
    inputs = seeded_inputs(STEP)
    with EagerEngine(STEP, SPEC) as engine:
        expected = engine.run(inputs)["x_next"]
    with placed(STEP.module, "cpu", layerwise=True), EagerEngine(STEP, SPEC) as engine:
        assert any(part._forward_pre_hooks for part in STEP.module.modules())
        np.testing.assert_array_equal(engine.run(inputs)["x_next"], expected)
    assert not any(part._forward_pre_hooks for part in STEP.module.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("layerwise", [False, True])
def test_on_a_card(layerwise: bool) -> None:
    graph, inputs = toys.step(), seeded_inputs(STEP)
    with EagerEngine(STEP, SPEC) as engine:
        expected = engine.run(inputs)["x_next"]
    with placed(graph.module, "cuda", layerwise), EagerEngine(graph, SPEC, "cuda") as engine:
        assert rel(engine.run(inputs)["x_next"], expected) < 1e-5
    assert {parameter.device.type for parameter in graph.module.parameters()} == {"cpu"}


class Normed(nn.Module):
    """x: [1, 4, 8]; a norm over values that half precision cannot square."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x * 3)


def test_norms_stay_in_float32() -> None:
    graph = Graph("normed", Normed(), {"x": torch.zeros(1, 4, 8)}, ("y",))
    halved = in_half(graph)
    assert halved.module.norm.weight.dtype == torch.float32
    assert graph.module.norm.weight.dtype == torch.float32
    inputs = seeded_inputs(graph)
    with EagerEngine(graph) as full, EagerEngine(halved) as half:
        assert rel(half.run(inputs)["y"], full.run(inputs)["y"]) < 2e-3
    assert in_precision(graph, "fp16").module.norm.weight.dtype == torch.float16


def test_half_precision_where_float32_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_available", lambda: 800_000)
    made = reference_of(STEP, SPEC, activation_bytes=1_000_000)
    assert made.made_in == HALF
    exact = reference_of(STEP, SPEC)
    assert 0 < rel(made.outputs["x_next"].values, exact.outputs["x_next"].values) < 5e-3
    with pytest.raises(ExportError, match="graph 'step': memory is too small for its reference"):
        reference_of(replace(STEP), SPEC, activation_bytes=10_000_000)
