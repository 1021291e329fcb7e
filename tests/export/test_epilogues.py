"""What convolutions do while they write: every place is found, and what is computed stays the same."""

from collections.abc import Callable

import pytest
import torch
from diffusers.models.resnet import TemporalConvLayer
from torch import Tensor, fx, nn
from torch.nn import functional
from triton import knobs

from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.fp8 import KINDS, quantise
from stt2v.export.graph import Graph
from stt2v.export.models.video_blocks import VideoResBlock, temporal_conv
from stt2v.export.precision import TYPES, in_type
from stt2v.export.shares import put_shares_into_weights
from stt2v.export.to_inductor import put_in_kernels, simplified

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _references(monkeypatch: pytest.MonkeyPatch) -> None:
    """References stand in for kernels, which take long to interpret."""
    monkeypatch.setattr(knobs.runtime, "interpret", False)


class Frames(nn.Module):
    """x: [6, 32, h, w], two clips of three frames -> the same, by a network of blocks over space and frames."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(blocks), nn.GroupNorm(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, 3)
        return functional.silu(self.norm(x))


class Residual(nn.Module):
    """x: [B, 32, F, P] -> x and a convolution of it over frames, put together and normalised."""

    def __init__(self, then: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.then, self.norm = temporal_conv(32), then, nn.GroupNorm(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.then(x, self.layer(x)))


def rewritten(network: nn.Module, precision: str = "fp16") -> tuple[fx.GraphModule, dict[str, int], float]:
    """`network` as it would be compiled for a GPU, what was found, and how far off it is; its x: [6, 32, 8, 12]."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(6, 32, 8, 12)
    graph = Graph("network", network, {"x": x}, ("y",))
    program = simplified(flatten(exported_from_graph(in_type(graph, TYPES[precision]))))
    if precision == "fp8":
        program, _ = quantise(program, fewest=dict.fromkeys(KINDS, 1))
    found = put_in_kernels(program.module)
    counts = {name: found[name] for name in ("sums", "moments")}
    with torch.no_grad():
        (actual,), expected = program.module(*program.weights.values(), x), network(x)
    return program.module, counts, float((actual - expected).norm() / expected.norm())


def left(module: fx.GraphModule, *targets: object) -> int:
    return sum(node.target in targets for node in module.graph.nodes)


def test_a_block_of_stable_video_diffusion_in_fp8_reads_nothing_again() -> None:
    network = Frames(VideoResBlock(32, 32, None, 1e-5, 1e-5), VideoResBlock(32, 32, None, 1e-5, 1e-5))
    module, counts, off = rewritten(network, "fp8")
    assert counts == {"sums": 4, "moments": 8}  # the first norm's maps come from elsewhere
    assert left(module, aten.add.Tensor) == 9  # by which norms are applied
    assert left(module, aten.div.Tensor, aten.sigmoid.default) == 0  # by 1, and of a share
    assert off < 0.1


def test_in_half_precision_biases_over_space_are_in_norms_and_sums() -> None:
    wider, narrower = (VideoResBlock(*widths, None, 1e-5, 1e-5) for widths in ((32, 64), (64, 32)))
    module, counts, off = rewritten(Frames(wider, narrower))
    assert counts == {"sums": 2, "moments": 4}  # of convolutions over frames
    over_space = module.graph.find_nodes(op="call_function", target=aten.conv2d.default)
    assert [node.args[2] is None for node in over_space] == 2 * [True, False, False]  # for a norm, and twice for a sum
    assert off < 2e-3


def test_the_bias_of_a_shortcut_is_in_that_of_the_convolution_that_adds_it() -> None:
    wider, narrower = (VideoResBlock(*widths, None, 1e-5, 1e-5) for widths in ((32, 64), (64, 32)))
    module, counts, off = rewritten(Frames(wider, narrower), "fp8")
    assert counts == {"sums": 4, "moments": 8}
    shortcuts = [node for node in module.graph.nodes if node.target == aten.conv2d.default]
    assert [node.args[2] for node in shortcuts] == [None, None]
    assert off < 0.1


def test_a_temporal_block_of_modelscope_adds_where_it_ends() -> None:
    _, counts, off = rewritten(Frames(TemporalConvLayer(32, 32, norm_num_groups=8)))
    assert counts == {"sums": 1, "moments": 4}
    assert off < 2e-3


@pytest.mark.parametrize(
    ("then", "sums", "moments"),
    [
        (lambda x, y: x + y, 1, 1),
        (lambda x, y: y + x, 1, 1),
        (lambda x, y: y, 0, 1),
        (lambda x, y: y.transpose(2, 3) + x.transpose(2, 3), 1, 0),  # moments are of pixels in their order
        (lambda x, y: (y.permute(2, 3, 0, 1) + x.permute(2, 3, 0, 1)).permute(2, 3, 0, 1), 1, 1),
        (lambda x, y: y.reshape(-1, 16, 8, 24) + x.reshape(-1, 16, 8, 24), 1, 0),  # and of channels
        (lambda x, y: (x + y) * y, 0, 0),  # what is used otherwise has to be there
        (lambda x, y: x + 2 * y, 0, 0),
        (lambda x, y: y + y, 0, 0),
        (lambda x, y: x[:1] + y, 0, 0),
        (lambda x, y: torch.add(x, y, alpha=2), 0, 0),
        (lambda x, y: (x.float() + y).to(x.dtype), 0, 0),  # a sum of more bits than are written
    ],
)
def test_sums_and_moments(then: Callable[[Tensor, Tensor], Tensor], sums: int, moments: int) -> None:
    network = Residual(then)
    network.norm = nn.GroupNorm(8, then(torch.zeros(6, 32, 8, 12), torch.zeros(6, 32, 8, 12)).shape[1])
    _, counts, off = rewritten(network)
    assert counts == {"sums": sums, "moments": moments}
    assert off < 2e-3


class Once(Residual):
    """A convolution of the first map, added to all."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x[:1])


def test_maps_that_are_added_to_more_maps_are_written_first() -> None:
    _, counts, off = rewritten(Once(torch.add))
    assert counts == {"sums": 0, "moments": 0}
    assert off < 2e-3


class Crossed(Residual):
    """x: [6, 32, 32, w] -> convolutions over frames and over space, whose channels are the frames of the other."""

    def __init__(self) -> None:
        super().__init__(torch.add)
        self.space = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.repeat(1, 1, 4, 1)
        return self.norm(self.layer(x).transpose(1, 2) + self.space(x))


def test_biases_of_other_channels_stay() -> None:
    _, counts, off = rewritten(Crossed())
    assert counts == {"sums": 1, "moments": 0}
    assert off < 2e-3


class TwoNorms(Residual):
    """What a convolution gives, normalised twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        clips = y.reshape(2, 3, 32, 96).transpose(1, 2)
        return self.norm(y) + self.norm(clips).transpose(1, 2).reshape(y.shape)


def test_moments_of_frames_are_also_those_of_clips() -> None:
    module, counts, off = rewritten(TwoNorms(torch.add))
    assert counts == {"sums": 0, "moments": 2}
    assert left(module, torch.ops.stt2v.convolution_and_moments.default) == 1
    assert off < 2e-3


class Shared(nn.Module):
    """x: [N, 8, h, w] -> the same, with a share of what a convolution gives: by a weight, or by x."""

    def __init__(self, known: bool, again: bool) -> None:
        super().__init__()
        self.layer, self.share = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.zeros(1))
        self.known, self.again = known, again

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(-self.share) if self.known else x.mean()
        x = x + share * self.layer(x)
        return self.layer(x) if self.again else x


@pytest.mark.parametrize(("known", "again", "products"), [(True, False, 0), (True, True, 1), (False, False, 1)])
def test_shares_are_in_weights_of_their_own(known: bool, again: bool, products: int) -> None:
    torch.manual_seed(0)
    graph = Graph("shared", Shared(known, again), {"x": torch.randn(2, 8, 5, 6)}, ("y",))
    flat = flatten(exported_from_graph(graph))
    program = put_shares_into_weights(flat)
    assert left(program.module, aten.mul.Tensor) == products
    assert left(flat.module, aten.mul.Tensor) == 1
    assert _gives(program, graph)


def _gives(program: FlatProgram, graph: Graph) -> bool:
    """Whether `program` gives what `graph` does."""
    with torch.no_grad():
        (actual,) = program.module(*program.weights.values(), *graph.inputs.values())
        expected = graph.module(**graph.inputs)
    return actual.shape == expected.shape and float((actual - expected).norm() / expected.norm()) < 1e-6


class Drawn(Shared):
    """The same with a share that is drawn anew each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(1) * self.layer(x)


def test_shares_that_are_drawn_are_not_in_weights() -> None:
    graph = Graph("drawn", Drawn(True, False), {"x": torch.randn(2, 8, 5, 6)}, ("y",))
    assert left(put_shares_into_weights(flatten(exported_from_graph(graph))).module, aten.mul.Tensor) == 1


class Gained(nn.Module):
    """x: [N, 8, h, w] -> what a convolution gives, times a number of so many axes, and one of two that are given."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.layer, self.other = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.gain = nn.Parameter(torch.full((1,) * axes, 3.0))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        _, second = given.chunk(2)
        return self.gain * self.layer(x) + second * self.other(x)


@pytest.mark.parametrize("axes", [0, 1, 4, 5])
def test_a_share_may_have_axes(axes: int) -> None:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 8, 5, 6), "given": torch.randn(2)}
    graph = Graph("gained", Gained(axes), inputs, ("y",))
    assert _gives(put_shares_into_weights(flatten(exported_from_graph(graph))), graph)
