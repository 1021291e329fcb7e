"""The pass that puts our kernels in: it finds every place, and what is computed stays the same."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._ordered_set import OrderedSet
from triton import knobs

from stt2v.engine.models import find_model
from stt2v.export import fp8, sensitivity
from stt2v.export.biases import leave_biases_to_sums
from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_maps import flat_maps
from stt2v.export.flat_program import flatten
from stt2v.export.fp8 import KINDS, layers, quantise
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.inductor_builder import maps_apart_from_tokens
from stt2v.export.kernel_pass import REWRITES
from stt2v.export.precision import TYPES, in_type
from stt2v.export.recipes import recipe_for
from stt2v.export.reference import seeded_inputs
from stt2v.export.sensitivity import sensitive_layers
from stt2v.export.shifts import put_shifts_into_biases
from stt2v.export.to_inductor import put_in_kernels, simplified


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreting the kernels of a whole network takes minutes; their references stand in for them."""
    monkeypatch.setattr(knobs.runtime, "interpret", False)


@pytest.fixture(scope="module")
def tiny() -> Mapping[str, GraphMaker]:
    return recipe_for(find_model("tiny"), None).graphs


def run(graph: Graph, precision: str) -> tuple[list[Tensor], Mapping[str, int]]:
    """The outputs of what would be compiled for a GPU, and how often each rewrite was made."""
    program, counts = simplified(flatten(exported_from_graph(in_type(graph, TYPES[precision])))), dict[str, int]()
    if precision == "fp8":
        program, found = quantise(program, fewest=dict.fromkeys(KINDS, 1))
        counts |= found
    counts |= put_in_kernels(program.module)
    inputs = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    with torch.no_grad():
        return list(program.module(*program.weights.values(), *inputs)), counts


def worst(graph: Graph, actual: list[Tensor]) -> float:
    inputs = {name: torch.from_numpy(array) for name, array in seeded_inputs(graph).items()}
    with torch.no_grad():
        expected = graph.module(**inputs)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    return max(float((a - b).norm() / b.norm()) for a, b in zip(actual, expected, strict=True))


def test_maps_leave_the_program_as_it_is(tiny: Mapping[str, GraphMaker]) -> None:
    program = flatten(exported_from_graph(tiny["enhance_8_half"]()))
    code, shapes = program.module.code, {name: weight.shape for name, weight in program.weights.items()}
    assert flat_maps(program).module.code != code
    assert (program.module.code, {name: weight.shape for name, weight in program.weights.items()}) == (code, shapes)


def counted(**found: int) -> Mapping[str, int]:
    """How often each rewrite was made: those not `found`, never."""
    return dict.fromkeys((*(rewrite.__name__ for rewrite in REWRITES.values()), "sums", "moments"), 0) | found


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # attention over pixels and convolutions are left to fp16, and the smallest maps are normalised as they are
        ("half", counted(norms=60, gates=18, endings=6, turns=6, normed_layers=4, attentions=13)),
        ("vae_decode_1", counted(norms=41)),
        ("enhance_8_half", counted(norms=58, gates=9, endings=9, normed_layers=9)),
    ],
)
def test_kernels_change_nothing(tiny: Mapping[str, GraphMaker], name: str, counts: Mapping[str, int]) -> None:
    graph = tiny[name]()
    actual, found = run(graph, "fp32")
    assert found == counts
    assert worst(graph, actual) < 1e-5


class Block(nn.Module):
    """x: [B, C, F, P] -> the same: what a video network is made of, with channels enough for FP8."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.frames = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.up = nn.Linear(channels, 8 * channels)
        self.down = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.space(functional.silu(self.norm(x)))
        x = x + self.frames(x)
        kept, gate = self.up(x.transpose(1, 3)).chunk(2, -1)
        return x + self.down(kept * functional.gelu(gate)).transpose(1, 3)


class Shifted(nn.Module):
    """x: [B, 8, h, w] -> the same shape, with a shift of every channel behind a convolution, as in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.space, self.time = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(4, 8)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.space(x) + self.time(time)[:, :, None, None]


@pytest.mark.parametrize(("times", "last"), [(1, "aten.conv2d.default"), (3, "aten.add.Tensor")])
def test_shifts_of_all_maps_are_in_the_bias(times: int, last: str) -> None:
    graph = Graph("shifted", Shifted(), {"x": torch.zeros(3, 8, 5, 6), "time": torch.zeros(times, 4)}, ("y",))
    program = flatten(exported_from_graph(graph))
    put_shifts_into_biases(program.module)
    (result,) = program.module.graph.output_node().args[0]
    assert str(result.target) == last
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


class Repeated(Shifted):
    """The same with a time for each clip, [B, 4], of which only the first counts."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        frames = time[:1].expand(len(time), -1).repeat_interleave(len(x) // len(time), 0)
        return super().forward(x, functional.silu(frames))


def test_a_shift_that_is_repeated_for_each_map_is_in_the_bias() -> None:
    graph = Graph("repeated", Repeated(), {"x": torch.zeros(6, 8, 5, 6), "time": torch.zeros(2, 4)}, ("y",))
    program = flatten(exported_from_graph(graph))
    put_shifts_into_biases(program.module)
    (result,) = program.module.graph.output_node().args[0]
    assert result.target == torch.ops.aten.conv2d.default
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


class Flattened(Shifted):
    """The same with each number repeated, not each row."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        numbers = time[:1].expand(len(x), -1).repeat_interleave(4).reshape(len(x) * 4, 4)
        return self.space(x) + self.time(numbers)[: len(x), :, None, None]


def test_numbers_that_are_repeated_are_no_shift_of_all_maps() -> None:
    graph = Graph("flattened", Flattened(), {"x": torch.zeros(6, 8, 5, 6), "time": torch.zeros(2, 4)}, ("y",))
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


class Attention(nn.Module):
    """q: [B, heads, L, D]; k: [B or 1, heads, L, D] -> as q."""

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, k)


@pytest.mark.parametrize(
    ("frames", "batch", "dtype", "ours"),
    [(38, 2, "fp16", 1), (38, 1, "fp16", 0), (38, 2, "fp32", 0), (32, 2, "fp32", 1), (65, 2, "fp32", 0)],
)
def test_attention_is_ours_where_a_block_holds_it(frames: int, batch: int, dtype: str, ours: int) -> None:
    inputs = {"q": torch.zeros(2, 2, frames, 16), "k": torch.zeros(batch, 2, frames, 16)}
    assert run(Graph("attention", Attention(), inputs, ("y",)), dtype)[1]["attentions"] == ours


class Residual(Shifted):
    """The same with maps added, which were laid out anew for it."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        turned = x.transpose(2, 3)
        return self.space(turned) + turned.contiguous()


def test_layers_are_tried_with_neighbours_of_their_kind() -> None:
    names = ["linear_0", "conv_0", "linear_1", "conv_1", "linear_2"]
    groups = [*sensitivity._neighbours(names, lambda name: len(name.partition("_")[0]), 2)]
    assert groups == [("conv_0", "conv_1"), ("linear_0", "linear_1"), ("linear_2",)]


def test_maps_that_are_laid_out_anew_are_no_shift() -> None:
    graph = Graph("residual", Residual(), {"x": torch.zeros(3, 8, 5, 6), "time": torch.zeros(1, 4)}, ("y",))
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


class Doubled(Shifted):
    """x: [1, 8, 1, 1] -> twice what a convolution gives, which has the shape of a shift."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        maps: Tensor = self.space(x)
        return maps + maps


class Overwritten(Shifted):
    """The same with what the convolution sees written into before the shift is added."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        seen = x.clone()
        maps = self.space(seen)
        seen += 1
        return maps + self.time(time)[:, :, None, None]


@pytest.mark.parametrize(("kind", "shape"), [(Doubled, (1, 8, 1, 1)), (Overwritten, (3, 8, 5, 6))])
def test_shifts_are_of_what_a_convolution_gave(kind: type[Shifted], shape: tuple[int, ...]) -> None:
    graph = Graph("shifted", kind(), {"x": torch.zeros(shape), "time": torch.zeros(1, 4)}, ("y",))
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


class Indifferent(nn.Module):
    """q: [B, heads, L, D] -> the same shape, by an attention to which all frames are alike."""

    def forward(self, q: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, q, q, scale=0.0)


def test_a_scale_of_zero_is_one() -> None:
    graph = Graph("indifferent", Indifferent(), {"q": torch.zeros(2, 2, 5, 16)}, ("y",))
    actual, counts = run(graph, "fp32")
    assert counts["attentions"] == 1
    assert worst(graph, actual) < 1e-6


class Normed(nn.Module):
    """x: [B, 32, h, w] -> the same shape: a GroupNorm whose eps is left to its default, and one without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.rand(32)), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.group_norm(x, 4, self.weight, self.weight)
        return self.layer(functional.silu(torch.group_norm(x, 4)))


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-6), ("fp8", 0.1)])
def test_norms_may_have_fewer_arguments(precision: str, allowed: float) -> None:
    graph = Graph("normed", Normed(), {"x": torch.zeros(2, 32, 16, 32)}, ("y",))
    actual, counts = run(graph, precision)
    assert counts["norms"] == 1
    assert worst(graph, actual) < allowed


@pytest.mark.parametrize(("maps", "norms"), [(65535, 1), (65536, 0)])
def test_norms_of_more_maps_than_a_grid_has_blocks_are_left_alone(maps: int, norms: int) -> None:
    graph = Graph("many", nn.GroupNorm(1, 2), {"input": torch.zeros(maps, 2, 1, 2)}, ("y",))
    assert run(graph, "fp32")[1]["norms"] == norms


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_convolutions_of_one_map_without_an_axis_for_it_are_left_alone(precision: str) -> None:
    graph = Graph("one", nn.Conv2d(16, 16, (3, 1), padding=(1, 0)), {"input": torch.zeros(16, 32, 16)}, ("y",))
    actual, counts = run(graph, precision)
    assert (counts["convolutions"], counts.get("fp8_convolutions", 0)) == (0, 0)
    assert worst(graph, actual) < (2e-3 if precision == "fp16" else 2e-2)


class Gated(nn.Module):
    """x: [N, K] -> [N, D], by a gated unit."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = self.up(x).chunk(2, -1)
        return kept * functional.gelu(gate)


@pytest.mark.parametrize(("width", "inner", "gates"), [(8, 8, 1), (12, 8, 0), (8, 12, 0)])
def test_gates_are_ours_where_rows_can_be_fetched(width: int, inner: int, gates: int) -> None:
    graph = Graph("gated", Gated(width, inner), {"x": torch.zeros(5, width)}, ("y",))
    assert run(graph, "fp16")[1]["gates"] == gates


class Added(nn.Module):
    """x: [B, N, 8] -> the same, by two layers, of which something is added to one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.second(x + self.first(x).reshape(x.shape)))


def test_biases_are_added_with_what_is_added_anyway() -> None:
    graph = Graph("added", Added(), {"x": torch.zeros(2, 3, 8)}, ("y",))
    program = flatten(exported_from_graph(graph))
    leave_biases_to_sums(program.module)
    layers = program.module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    assert [len(layer.args) for layer in layers] == [2, 3]
    assert worst(graph, run(graph, "fp32")[0]) < 1e-6


def block() -> Graph:
    torch.manual_seed(0)
    return Graph("block", Block(), {"x": torch.zeros(2, 64, 9, 32)}, ("y",))


def test_half_precision_takes_convolutions_over_frames() -> None:
    graph = block()
    actual, found = run(graph, "fp16")
    assert found == counted(norms=1, gates=1, convolutions=1, sums=1)
    assert worst(graph, actual) < 2e-3


def test_fp8_takes_convolutions_and_linears() -> None:
    graph = block()
    actual, found = run(graph, "fp8")
    assert found == counted(fp8_linears=2, fp8_convolutions=2, norms=1, gates=1, sums=2)
    assert 0.01 < worst(graph, actual) < 0.05


def test_largest_of_a_map_is_sought_before_it_is_enlarged() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(32, 32, 3, padding=1))
    graph = Graph("enlarge", layers, {"input": torch.zeros(2, 32, 16, 32)}, ("y",))
    flat = flatten(exported_from_graph(in_type(graph, torch.bfloat16)))
    program, counts = quantise(flat, fewest=dict.fromkeys(KINDS, 1))
    assert counts["fp8_convolutions"] == 1
    _, largest = program.module.graph.find_nodes(op="call_function", target=torch.ops.aten.amax.default)
    while largest.op == "call_function":
        assert largest.target != torch.ops.aten.upsample_nearest2d.vec
        (largest,) = largest.all_input_nodes
    assert 0.01 < worst(graph, run(graph, "fp8")[0]) < 0.05


class FeedForward(nn.Module):
    """x: [N, 64] -> the same, by a gated unit, some of whose columns are a thousand times as large as others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(128, 64)
        size = torch.logspace(-1.5, 1.5, 128)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)
            self.up.weight[:128] *= size[:, None]
            self.up.bias[:128] *= size
            self.down.weight /= size

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = self.up(self.norm(x)).chunk(2, -1)
        return self.down(kept * functional.gelu(gate))


def test_gates_behind_a_norm_are_in_fp8_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    graph = Graph("feed_forward", FeedForward(), {"x": torch.zeros(2, 300, 64)}, ("y",))
    actual, counts = run(graph, "fp8")
    assert (counts["fp8_linears"], counts["gates"], counts["narrow_gates"]) == (2, 1, 1)
    monkeypatch.setattr(fp8, "narrowed", lambda *_: None)
    by_rows, counts = run(graph, "fp8")
    assert (counts["fp8_linears"], counts["gates"], counts["narrow_gates"]) == (2, 1, 0)
    assert 0.01 < worst(graph, actual) < 1.02 * worst(graph, by_rows)


class Gained(FeedForward):
    """The same with a norm whose gain is a sum."""

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(x, (64,), 1.0 + self.norm.weight, self.norm.bias)
        kept, gate = self.up(normed).chunk(2, -1)
        return self.down(kept * functional.gelu(gate))


def test_gates_behind_a_norm_of_unknown_gain_have_their_rows_looked_at() -> None:
    torch.manual_seed(0)
    graph = Graph("gained", Gained(), {"x": torch.zeros(2, 300, 64)}, ("y",))
    actual, counts = run(graph, "fp8")
    assert (counts["fp8_linears"], counts["gates"], counts["narrow_gates"]) == (2, 1, 0)
    assert worst(graph, actual) < 0.1


class Watched(FeedForward):
    """The same, and the half of the unit that is kept, as it is before it is gated."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, gate = self.up(self.norm(x)).chunk(2, -1)
        return self.down(kept * functional.gelu(gate)), kept.clone()


def test_gates_whose_halves_are_used_otherwise_are_left_alone() -> None:
    torch.manual_seed(0)
    graph = Graph("watched", Watched(), {"x": torch.zeros(2, 300, 64)}, ("y", "kept"))
    actual, counts = run(graph, "fp8")
    assert (counts["fp8_linears"], counts["gates"], counts["narrow_gates"]) == (2, 0, 0)
    assert worst(graph, actual) < 0.1


class Sum(nn.Module):
    """x: [N, 64] -> the same: two layers side by side, of which one gives nearly all of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.small(x) + 30.0 * self.large(x)


def test_layers_that_hurt_stay() -> None:
    torch.manual_seed(0)
    graph = Graph("sum", Sum(), {"x": torch.zeros(512, 64)}, ("y",))
    program = flatten(exported_from_graph(in_type(graph, torch.bfloat16)))
    inputs = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    every = dict.fromkeys(KINDS, 1)
    assert sensitive_layers(program, inputs, 0.1, every) == ()
    assert sensitive_layers(program, inputs, 0.02, every) == ("p_large_weight",)
    assert set(sensitive_layers(program, inputs, -1.0, every)) == {"p_large_weight", "p_small_weight"}  # nothing does
    with patch.object(sensitivity, "TRIALS", 1):  # neighbours are tried together, and stay in their order
        assert set(sensitive_layers(program, inputs, 0.02, every)) == {"p_large_weight", "p_small_weight"}
    assert quantise(program, ("p_large_weight",), every)[1] == {"fp8_linears": 1, "fp8_convolutions": 0}
    assert layers(program) == {}  # they are too small for it to be worth it
    assert sensitive_layers(program, inputs, -1.0) == ()  # however far off it is


class Uneven(nn.Module):
    """x: [N, 64] -> the same: a layer of little work, and one of 16 times as much that gives 1.5 times as much."""

    def __init__(self) -> None:
        super().__init__()
        self.little, self.much = nn.Linear(64, 64), nn.Linear(64, 1024)

    def forward(self, x: Tensor) -> Tensor:
        return self.little(x) + 1.5 * self.much(x).unflatten(1, (16, 64)).sum(1) / 4.0


def test_layers_that_stay_are_those_that_cost_least() -> None:
    torch.manual_seed(0)
    graph = Graph("uneven", Uneven(), {"x": torch.zeros(512, 64)}, ("y",))
    program = flatten(exported_from_graph(in_type(graph, torch.bfloat16)))
    inputs = [torch.from_numpy(array) for array in seeded_inputs(graph).values()]
    every = dict.fromkeys(KINDS, 1)
    assert layers(program, every) == {"p_little_weight": 512 * 64 * 64, "p_much_weight": 512 * 64 * 1024}
    assert sensitive_layers(program, inputs, 0.035, every) == ("p_little_weight",)
    with patch.object(sensitivity, "TRIALS", 1):  # neighbours of another kind are tried apart
        assert sensitive_layers(program, inputs, 0.035, every) == ("p_little_weight",)
    assert set(sensitive_layers(program, inputs, 0.028, every)) == {"p_little_weight", "p_much_weight"}


def test_what_bfloat16_rounds_otherwise_is_no_layer_s(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph("uneven", Uneven(), {"x": torch.zeros(512, 64)}, ("y",))
    program, x = flatten(exported_from_graph(in_type(graph, torch.bfloat16))), torch.ones(1)

    def outputs(tried: object, inputs: list[Tensor]) -> tuple[Tensor]:
        """Of a program that is rounded otherwise, whatever is changed; only the layer of much work hurts."""
        if tried is program:
            return (torch.tensor([1.0, 0.0 if inputs[0] is x else 0.042, 0.0]),)
        return (torch.tensor([1.0, 0.03, 0.0 if "p_much_weight" in cast(tuple[str, ...], tried) else 0.05]),)

    monkeypatch.setattr(sensitivity, "quantise", lambda tried, keep, fewest: (keep, {}))
    monkeypatch.setattr(sensitivity, "_outputs", outputs)
    assert sensitive_layers(program, [x], 0.04, dict.fromkeys(KINDS, 1)) == ("p_much_weight",)


def test_fp8_that_makes_nan_of_any_output_hurts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph("sum", Sum(), {"x": torch.zeros(512, 64)}, ("y",))
    program = flatten(exported_from_graph(in_type(graph, torch.bfloat16)))
    good, bad = (torch.ones(2),) * 2, (torch.ones(2), torch.full((2,), torch.nan))
    monkeypatch.setattr(sensitivity, "_outputs", lambda tried, _: good if tried is program else bad)
    assert len(sensitive_layers(program, (), 0.1, dict.fromkeys(KINDS, 1))) == 2


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
        assert GraphLowering.decide_layout_opt(
            cast(torch.fx.GraphModule, SimpleNamespace(graph=graph)), is_inference=True
        )
    assert [node.name for node in chosen] == ["maps"]
