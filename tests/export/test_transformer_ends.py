"""Merged ends of spatio-temporal transformers compute what they did; others are left alone."""

import pytest
import torch
from torch import Tensor, nn
from triton import knobs

from stt2v.export import fp8
from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.kernel_pass import put_kernels
from stt2v.export.models.video_transformer import VideoTransformer
from stt2v.export.precision import in_type
from stt2v.export.random_weights import random_state
from stt2v.export.reference import seeded_inputs
from stt2v.export.transformer_ends import merge_ends

FRAMES = 3


class Network(nn.Module):
    """x: [B F, 32, h, w] -> the same, by a transformer that blends by frames where `images` are given."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.transformer = VideoTransformer(32, 8, 8, depth)
        shapes = {key: tuple(value.shape) for key, value in self.transformer.state_dict().items()}
        self.transformer.load_state_dict(random_state(shapes, 0))

    def forward(self, x: Tensor, context: Tensor, images: Tensor | None = None) -> Tensor:
        sites = len([*self.transformer.sites()])
        out: Tensor = self.transformer(x, FRAMES, iter([context] * sites), images)
        return out


@pytest.mark.parametrize(("depth", "by_frames"), [(1, False), (2, False), (1, True)])
def test_ends_are_merged(depth: int, by_frames: bool) -> None:
    inputs = {"x": torch.zeros(2 * FRAMES, 32, 4, 5), "context": torch.zeros(2, 32)}
    if by_frames:
        inputs["images"] = torch.zeros(2, FRAMES)
    graph = Graph("network", Network(depth), inputs, ("y",))
    program = flatten(exported_from_graph(graph))
    merged = merge_ends(program)
    arrays = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    with torch.no_grad():
        expected, actual = (each.module(*each.weights.values(), *arrays)[0] for each in (program, merged))
    assert float((actual - expected).norm() / expected.norm()) < 1e-6
    assert ("p_transformer_proj_out_bias" in merged.weights) == by_frames


def test_an_end_that_adds_more_than_once_is_left_alone() -> None:
    inputs = {"x": torch.zeros(FRAMES, 32, 4, 5), "context": torch.zeros(1, 32)}
    graph = Graph("network", Network(1), inputs, ("y",))
    program = flatten(exported_from_graph(graph))
    *_, last = program.module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    last.kwargs = {"alpha": 2}
    program.module.recompile()
    merged = merge_ends(program)
    arrays = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    with torch.no_grad():
        expected, actual = (each.module(*each.weights.values(), *arrays)[0] for each in (program, merged))
    assert torch.equal(actual, expected)


def test_a_kernel_adds_what_the_last_layer_gives_in_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)  # the references stand in for the kernels
    for name in ("FEWEST_AT_GATES", "FEWEST_ROWS"):
        monkeypatch.setattr(fp8, name, 1)
    inputs = {"x": torch.zeros(2 * FRAMES, 32, 4, 5), "context": torch.zeros(2, 32)}
    graph = in_type(Graph("network", Network(1), inputs, ("y",)), torch.bfloat16)
    program, found = fp8.quantise(merge_ends(flatten(exported_from_graph(graph))))
    arrays = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    arguments = (*program.weights.values(), *arrays)
    assert found["fp8_linears"] == 6  # around three gated units
    with torch.no_grad():
        expected = program.module(*arguments)[0]
        counts = put_kernels(program.module)
        actual = program.module(*arguments)[0]
    assert (counts["gates"], counts["narrow_gates"], counts["endings"]) == (3, 3, 1)
    assert float((actual - expected).norm() / expected.norm()) < 0.02


class Tokens(nn.Module):
    """first, more: [1 or 2, 20, 3, 16], x: [2, 3, 20, 16] -> as x, the sum of all by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor, first: Tensor, more: Tensor) -> Tensor:
        rows = self.first(first).reshape(len(first), 20, 3, 16)
        return x + (rows + self.second(more)).permute(0, 2, 1, 3)


@pytest.mark.parametrize(("clips", "endings"), [((2, 2), 1), ((1, 2), 0), ((2, 1), 0), ((1, 1), 0)])
def test_sums_that_repeat_tokens_are_left_alone(
    clips: tuple[int, int], endings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    tokens = dict(zip(("first", "more"), (torch.randn(count, 20, 3, 16) for count in clips), strict=True))
    graph = Graph("tokens", Tokens(), {"x": torch.randn(2, 3, 20, 16), **tokens}, ("y",))
    program = flatten(exported_from_graph(graph))
    assert put_kernels(program.module)["endings"] == endings
    with torch.no_grad():
        (actual,) = program.module(*program.weights.values(), *graph.inputs.values())
        assert torch.allclose(actual, graph.module(**graph.inputs), atol=1e-5)


class Ending(nn.Module):
    """What diffusers' Transformer2DModel ends in. x: [N, 8, 4, 5]; gated: [N, 20, 6]; before: [N, 20, 8] -> as x."""

    def __init__(self, broadcast: str = "") -> None:
        super().__init__()
        self.inner, self.outer, self.broadcast = nn.Linear(6, 8), nn.Linear(8, 8), broadcast
        self.one = nn.Linear(6, 1)

    def forward(self, x: Tensor, gated: Tensor, before: Tensor) -> Tensor:
        added = {"before": before[:1], "channel": before[..., :1], "number before": 2.0}.get(self.broadcast, before)
        tokens = (self.one if self.broadcast == "layer" else self.inner)(gated) + added
        maps = self.outer(tokens).reshape(-1, 4, 5, 8).permute(0, 3, 1, 2).contiguous()
        return maps + {"x": x[:1], "number": 2.0}.get(self.broadcast, x)


@pytest.mark.parametrize(
    ("broadcast", "clips", "merged"),
    [("", 2, True), ("before", 2, False), ("x", 8, False), ("", 1, False)]
    + [(broadcast, 2, False) for broadcast in ("channel", "layer", "number before", "number")],
)
def test_only_ends_of_fitting_shapes_are_merged(broadcast: str, clips: int, merged: bool) -> None:
    maps = 8 if broadcast == "x" else 2  # as many as there are columns, or tokens of both side by side in one
    shapes = {"gated": (clips, 20 * maps // clips, 6), "before": (clips, 20 * maps // clips, 8)}
    inputs = {"x": torch.zeros(maps, 8, 4, 5)} | {name: torch.zeros(shape) for name, shape in shapes.items()}
    graph = Graph("ending", Ending(broadcast), inputs, ("y",))
    program = flatten(exported_from_graph(graph))
    arrays = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    both = merge_ends(program)
    assert ("p_outer_bias" not in both.weights) == merged
    with torch.no_grad():
        expected, actual = (each.module(*each.weights.values(), *arrays)[0] for each in (program, both))
    assert torch.allclose(actual, expected, atol=1e-5)
