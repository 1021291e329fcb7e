"""What half precision does to tiny's networks."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stt2v.engine.models import find_model
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.precision import in_precision
from stt2v.export.recipes import recipe_for
from stt2v.export.reference import seeded_inputs
from stt2v.export.step import SingleStep, Step, UpdateRule

LAYERS = nn.Linear | nn.Conv2d | nn.Conv3d | nn.GroupNorm | nn.LayerNorm
SLOW = ("step", "half", "first_step", "enhance_8_step", "interpolate_256x128")
GRAPHS = (
    "image_encoder",
    "vae_encode",
    "conditions",
    "first_half",
    "vae_decode_1",
    "enhance_text_encoder",
    "enhance_8_conditions",
    "enhance_8_half",
    "interpolate_128x64",
)


@pytest.fixture(scope="module")
def tiny() -> Mapping[str, GraphMaker]:
    return recipe_for(find_model("tiny"), None).graphs


@pytest.mark.parametrize("name", [*GRAPHS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_every_layer_is_in_half_precision_and_close(tiny: Mapping[str, GraphMaker], name: str) -> None:
    graph = tiny[name]()
    halved = in_precision(graph, "fp16")
    types: set[torch.dtype] = set()

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        types.add(output.dtype)

    for module in halved.module.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(note)
    inputs = {name: torch.from_numpy(np.asarray(value)) for name, value in seeded_inputs(graph).items()}
    with torch.no_grad():
        results = [module(**inputs) for module in (halved.module, graph.module)]
    assert types == {torch.float16}  # a float32 tensor among them would turn all that follows into float32
    pairs = zip(*((result,) if isinstance(result, Tensor) else result for result in results), strict=True)
    for rounded, exact in pairs:
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).norm() / exact.norm()) < 5e-3


class Still(nn.Module):
    """x: [1, F, C, h, w] -> nothing of it, by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        assert x.dtype == self.weight.dtype
        return x * self.weight


@pytest.mark.parametrize("module", [SingleStep(Still(), UpdateRule()), Step(Still(), UpdateRule())])
def test_a_step_is_rounded_in_its_network_only(module: nn.Module) -> None:
    x, values = torch.randn(2, 4, 3, 3), torch.arange(8.0)
    inputs = {"x": x, "coefficients": values}
    if isinstance(module, Step):
        inputs["guidance"] = torch.ones(2)
    graph = in_precision(Graph("step", module, inputs, ("x_next", "x0")), "fp16")
    with torch.no_grad():
        for halved, exact in zip(graph.module(**inputs), module(**inputs), strict=True):
            assert torch.equal(halved, exact)


@pytest.mark.parametrize(("name", "dtype"), [("first_half", torch.bfloat16), ("vae_decode_1", torch.float16)])
def test_fp8_is_for_steps(tiny: Mapping[str, GraphMaker], name: str, dtype: torch.dtype) -> None:
    assert {weight.dtype for weight in in_precision(tiny[name](), "fp8").module.parameters()} == {dtype}
