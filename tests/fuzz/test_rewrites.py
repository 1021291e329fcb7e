"""Random networks through all rewrites that the backend `inductor` makes of a program: they give what they gave."""

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from triton import knobs

from fuzz.mutation import amounts, search
from stt2v.export import normed_layers, side_by_side
from stt2v.export.capture import exported_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.to_inductor import put_in_kernels, simplified

LARGEST = 1 << 14  # values of a tensor
HEIGHTS = (1, 2, 4)  # also of widths, and counts of clips and frames

Step = Callable[[Sequence[Tensor]], Tensor]


class Network(nn.Module):
    """x, y: [B F, C, h, w], time: [1 or B F, C] -> the last of many values, and one before, by random steps.

    Each step takes values that are there, more often the last one, and gives one more. In float64 what is computed
    otherwise is told from what is computed wrongly, and convolutions are ours, as in half precision.
    """

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.draw, self.layers, self.steps = draw, nn.ModuleList(), list[Step]()
        self.clips, self.frames, height, width = (draw.choice(HEIGHTS) for _ in range(4))
        maps, channels = self.clips * self.frames, draw.choice((8, 16, 16))
        shapes = dict.fromkeys(("x", "y"), (maps, channels, height, width))
        shapes["time"] = (draw.choice((1, maps)), channels)
        torch.manual_seed(draw.randrange(100))
        self.inputs = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
        values = [*self.inputs.values()]
        for _ in range(draw.randint(4, 24)):
            count = len(self.layers)
            try:
                step = draw.choice(STEPS)(self, values)
                value = step(values)
            except (RuntimeError, ValueError, IndexError):  # the shapes do not fit
                del self.layers[count:]
                continue
            if value.numel() <= LARGEST and value.abs().amax() < 1e6:
                self.steps.append(step)
                values.append(value.detach())
        self.watched = draw.randrange(len(values))

    def forward(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        values = [*inputs.values()]
        for step in self.steps:
            values.append(step(values))
        return 1.5 * values[-1], 1.5 * values[self.watched]

    def own(self, layer: nn.Module) -> nn.Module:
        """A layer with random weights of its own."""
        self.layers.append(layer.double())
        for weight in layer.parameters():
            nn.init.normal_(weight, std=0.3)
        return layer

    def linear(self, columns: int, rows: int) -> nn.Module:
        return self.own(nn.Linear(columns, rows, bias=self.draw.random() < 0.7))

    def any(self, values: Sequence[Tensor], *ranks: int) -> int:
        """The number of a value of one of these ranks, half of the time of the last."""
        fitting = [number for number, value in enumerate(values) if not ranks or value.ndim in ranks]
        return self.draw.choice((fitting[-1], self.draw.choice(fitting)))


def convolutions(network: Network, values: Sequence[Tensor]) -> Step:
    """A convolution, or one that is added to what it sees, or to another."""
    i, draw = network.any(values, 4, 5), network.draw
    taps = draw.choice(((3, 3), (3, 1), (1, 1))) if values[i].ndim == 4 else (3, 1, 1)
    kind, channels = nn.Conv2d if values[i].ndim == 4 else nn.Conv3d, values[i].shape[1]
    padding = tuple(tap // 2 for tap in taps)
    layer, other = (
        network.own(kind(channels, channels, each, 1, around, bias=draw.random() < 0.8))
        for each, around in ((taps, padding), (1, 0))
    )
    return draw.choice(
        [
            lambda values: layer(values[i]),
            lambda values: values[i] + layer(values[i]),
            lambda values: layer(values[i]) + other(values[i]),
        ]
    )


def norms(network: Network, values: Sequence[Tensor]) -> Step:
    """A GroupNorm, or one before a layer of its tokens."""
    i = network.any(values, 4, 5)
    channels = values[i].shape[1]
    norm = network.own(nn.GroupNorm(2, channels, affine=network.draw.random() < 0.9))
    layer = network.linear(channels, channels)
    return network.draw.choice(
        [
            lambda values: functional.silu(norm(values[i])),
            lambda values: layer(norm(values[i]).flatten(2).transpose(1, 2)),
        ]
    )


def layers(network: Network, values: Sequence[Tensor]) -> Step:
    i = network.any(values)
    first, second = network.linear(values[i].shape[-1], 16), network.linear(16, values[i].shape[-1])
    return network.draw.choice([lambda values: first(values[i]), lambda values: second(first(values[i]))])


def gates(network: Network, values: Sequence[Tensor]) -> Step:
    i, width = network.any(values), values[-1].shape[-1]
    norm, up, down = network.own(nn.LayerNorm(width)), network.linear(width, 24), network.linear(12, width)

    def step(values: Sequence[Tensor]) -> Tensor:
        kept, gate = up(norm(values[i])).chunk(2, -1)
        result: Tensor = down(kept * functional.gelu(gate))
        return result

    return step


def sums(network: Network, values: Sequence[Tensor]) -> Step:
    i, j, draw = network.any(values), network.any(values), network.draw
    share = network.own(nn.Linear(1, 1))
    return draw.choice(
        [
            lambda values: values[i] + values[j],
            lambda values: values[i] + 2.0,
            lambda values: values[i] - values[j],
            lambda values: torch.add(values[i], values[j], alpha=2),
            lambda values: values[i] * share.weight[0].sigmoid() / 1.0,
            lambda values: values[i].clone().mul_(values[j]),
            lambda values: values[i].add_(values[j]),
        ]
    )


def shifts(network: Network, values: Sequence[Tensor]) -> Step:
    i, once = network.any(values, 4), network.draw.random() < 0.5
    layer = network.linear(values[2].shape[1], values[i].shape[1])

    def step(values: Sequence[Tensor]) -> Tensor:
        time = values[2][:1].expand(len(values[i]), -1) if once else values[2]
        return values[i] + layer(functional.silu(time))[:, :, None, None]

    return step


def attentions(network: Network, values: Sequence[Tensor]) -> Step:
    i, q, k, v = network.any(values), *(network.own(nn.Linear(values[-1].shape[-1], 32, bias=False)) for _ in range(3))

    def step(values: Sequence[Tensor]) -> Tensor:
        heads = (layer(values[i]).unflatten(-1, (2, 16)).transpose(-2, -3) for layer in (q, k, v))
        return functional.scaled_dot_product_attention(*heads).transpose(-2, -3).flatten(-2)

    return step


def views(network: Network, values: Sequence[Tensor]) -> Step:
    i, draw, clips, frames = network.any(values, 3, 4, 5), network.draw, network.clips, network.frames
    axes = [draw.randrange(4) for _ in range(2)]
    return draw.choice(
        [
            lambda values: values[i].unflatten(0, (clips, frames)).transpose(1, 2),
            lambda values: values[i].unflatten(0, (clips, frames)).transpose(1, 2).flatten(3),
            lambda values: values[i].transpose(1, 2).flatten(0, 1),
            lambda values: values[i].flatten(2).transpose(1, 2),
            lambda values: values[i].permute(0, 2, 3, 1).flatten(1, 2),
            lambda values: values[i].transpose(*axes).contiguous(),
            lambda values: values[i][:1],
        ]
    )


def ends(network: Network, values: Sequence[Tensor]) -> Step:
    """Ends of transformers over pixels, over frames, and of blends of both; some repeat tokens."""
    i, draw, (_, channels, height, width) = network.any(values, 4), network.draw, values[0].shape
    up, inner, outer = (network.linear(*sizes) for sizes in ((channels, 8), (8, channels), (channels, channels)))
    kind, share, clips = draw.choice(("pixels", "frames", "blends")), network.own(nn.Linear(1, 1)), network.clips
    cut = draw.choice([lambda rows: rows] * 3 + [lambda rows: rows[:1], lambda rows: rows[..., :1]])

    def layer(rows: Tensor) -> Tensor:
        return inner(up(rows)) + cut(rows)

    def step(values: Sequence[Tensor]) -> Tensor:
        x = values[i]
        if kind == "pixels":
            rows = outer(layer(x.permute(0, 2, 3, 1).flatten(1, 2))).unflatten(1, (height, width))
            return rows.permute(0, 3, 1, 2).contiguous() + x
        tokens = x.unflatten(0, (clips, -1)).flatten(3).permute(0, 1, 3, 2)  # [B, F, P, C]
        pixels = tokens.transpose(1, 2)
        if kind == "frames":
            rows = outer(inner(up(pixels.flatten(0, 1))) + cut(pixels.flatten(0, 1)))[None, None]
            maps = rows.reshape(clips, height, width, -1, channels).permute(0, 3, 4, 1, 2).contiguous()
            return maps.reshape(x.shape) + x
        mixed = tokens + share.weight.sigmoid() * ((cut(pixels) + inner(up(pixels))).transpose(1, 2) - tokens)
        return x + outer(mixed.flatten(0, 1)).transpose(1, 2).reshape(x.shape)

    return step


STEPS = (convolutions, norms, layers, gates, sums, sums, shifts, attentions, views, views, ends)


@amounts
def test_random_networks_give_what_they_gave(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.runtime, "interpret", False)  # the references stand in for the kernels
    monkeypatch.setattr(side_by_side, "FEWEST_ROWS", 1)
    monkeypatch.setattr(normed_layers, "PIXELS", 0)
    search(examples, check, draw=st.randoms(use_true_random=False))


def check(draw: random.Random) -> None:
    network = Network(draw)
    graph = Graph("network", network, network.inputs, ("last", "watched"), casts=True)
    program = simplified(flatten(exported_from_graph(graph)))
    put_in_kernels(program.module)
    with torch.no_grad():
        found = program.module(*program.weights.values(), *(value.clone() for value in network.inputs.values()))
        expected = network(**{name: value.clone() for name, value in network.inputs.items()})
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.shape == wanted.shape
        assert math.isclose(float((actual - wanted).norm()), 0, abs_tol=1e-4 * float(wanted.norm()) + 1e-6)
