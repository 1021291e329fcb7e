"""The pass that puts our kernels in: it finds every place, and what is computed stays the same."""

from collections.abc import Mapping
from typing import cast
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._ordered_set import OrderedSet
from triton import knobs

from stt2v.engine.models import find_model
from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.fp8 import quantise
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.inductor_builder import maps_apart_from_tokens
from stt2v.export.kernel_pass import put_kernels
from stt2v.export.precision import in_precision
from stt2v.export.recipes import recipe_for
from stt2v.export.reference import seeded_inputs


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreting the kernels of a whole network takes minutes; their references stand in for them."""
    monkeypatch.setattr(knobs.runtime, "interpret", False)


@pytest.fixture(scope="module")
def tiny() -> Mapping[str, GraphMaker]:
    return recipe_for(find_model("tiny"), None).graphs


def run(graph: Graph, precision: str) -> tuple[list[Tensor], Mapping[str, int]]:
    """The outputs of what would be compiled for a GPU, and how often each rewrite was made."""
    program, counts = flatten(exported_from_graph(in_precision(graph, precision))), dict[str, int]()
    if precision == "fp8":
        program, counts["fp8_linears"] = quantise(program, fewest=1)
    counts |= put_kernels(program.module)
    inputs = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    with torch.no_grad():
        return list(program.module(*program.weights.values(), *inputs)), counts


def worst(graph: Graph, actual: list[Tensor]) -> float:
    inputs = {name: torch.from_numpy(array) for name, array in seeded_inputs(graph).items()}
    with torch.no_grad():
        expected = graph.module(**inputs)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    return max(float((a - b).norm() / b.norm()) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Attention over pixels is left to fp16.
        ("half", {"norms": 60, "temporal_convolutions": 0, "gates": 18, "attentions": 13}),
        ("enhance_8_half", {"norms": 58, "temporal_convolutions": 32, "gates": 9, "attentions": 0}),
        ("vae_decode_1", {"norms": 41, "temporal_convolutions": 0, "gates": 0, "attentions": 0}),
    ],
)
def test_kernels_change_nothing(tiny: Mapping[str, GraphMaker], name: str, counts: Mapping[str, int]) -> None:
    graph = tiny[name]()
    actual, found = run(graph, "fp32")
    assert found == counts
    assert worst(graph, actual) < 1e-5


def test_fp8_takes_large_linears_only(tiny: Mapping[str, GraphMaker]) -> None:
    graph = tiny["half"]()
    actual, found = run(graph, "fp8")
    assert found["attentions"] == 17
    assert 0 < found["fp8_linears"] < 166
    assert worst(graph, actual) < 0.2  # 0.12: toy widths average fewer errors than real ones


def test_only_maps_are_laid_channels_last() -> None:
    graph, mode = torch.fx.Graph(), FakeTensorMode()
    with mode:
        maps = torch.empty(2, 8, 4, 4, device="cuda", memory_format=torch.channels_last)
        values = {"maps": maps, "tokens": torch.empty(2, 16, 4, 8, device="cuda"), "rows": torch.empty(2, 8)}
    for name, value in values.items():
        graph.placeholder(name).meta["val"] = value
    with (
        patch.object(GraphLowering, "find_nodes_prefer_channels_last", lambda _: OrderedSet(graph.nodes)),
        maps_apart_from_tokens(),
    ):
        chosen = GraphLowering.find_nodes_prefer_channels_last(cast(GraphLowering, None))
    assert [node.name for node in chosen] == ["maps"]
