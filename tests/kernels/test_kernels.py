"""Every kernel beside its reference in float64, on random inputs: on a GPU, or in Triton's interpreter."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stt2v.kernels import (
    attention,
    attention_gradient,
    convolution,
    fp8,
    geglu,
    group_norm,
    implicit_gemm,
    linear,
    moments,
    parts,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILING = implicit_gemm.Tiling(64, 64, 64, 4, 2)  # of small maps
TYPES = {torch.float32: 1e-6, torch.float16: 1e-3}  # allowed rel; half precision rounds once, to 11 bits


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def rel(actual: Tensor, reference: Callable[..., Tensor], *arguments: Tensor) -> float:
    expected = reference(*(argument.double() for argument in arguments))
    assert actual.shape == expected.shape
    return float((actual.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 64, 9, 131), (3, 96, 1, 7), (1, 80, 20, 60)], ids=str)
def test_group_norm_far_from_zero(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (random(*shape, dtype=torch.float32) * 2 + 5).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = (random(shape[1], dtype=dtype, seed=seed) for seed in (1, 2))
    actual = group_norm.apply_factors(x, *group_norm.group_factors(*moments.moments(x), weight, bias, 8, 1e-5))
    expected = lambda *tensors: group_norm.group_norm_reference(*tensors, 8, 1e-5)  # noqa: E731
    assert rel(actual, expected, x, weight, bias) < TYPES[dtype]
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_group_norm_of_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(2, 80, 40, 60, dtype=torch.float32).contiguous(memory_format=torch.channels_last) + 30
    weight, bias = (random(80, dtype=torch.float32, seed=seed) for seed in (1, 2))
    found = moments.moments(x)
    for name, value in (("MANY", 3), ("RUN", 2)):
        monkeypatch.setattr(group_norm, name, value)
    assert found[1].shape == (2, 3)
    actual = group_norm.apply_factors(x, *group_norm.group_factors(*found, weight, bias, 8, 1e-5))
    expected = lambda *tensors: group_norm.group_norm_reference(*tensors, 8, 1e-5)  # noqa: E731
    assert rel(actual, expected, x, weight, bias) < 1e-5  # 30 times its spread away from zero


def test_factors_of_maps_for_the_norm_of_others() -> None:
    x = random(3, 80, 5, 20, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    weight, bias, offset = (random(80, dtype=torch.float16, seed=seed) * 3 for seed in (1, 2, 3))
    factors = group_norm.group_factors(*moments.moments(x), weight, bias, 8, 1e-5, offset)
    shifted = x.double() + offset.double()[:, None, None]
    expected = lambda *tensors: group_norm.group_norm_reference(*tensors, 8, 1e-5)  # noqa: E731
    assert rel(group_norm.apply_factors(x.float(), *factors), expected, shifted, weight, bias) < TYPES[torch.float32]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("queries", "keys", "width"), [(25, 25, 64), (25, 7, 16), (16, 16, 32), (38, 38, 64)])
def test_short_attention_reads_any_layout(queries: int, keys: int, width: int, dtype: torch.dtype) -> None:
    q = random(3, queries, 2, width, dtype=dtype).transpose(1, 2)  # as linear layers leave heads
    k, v = (random(3, 2, keys, width, dtype=dtype, seed=seed) for seed in (1, 2))
    actual = attention.short_attention(q, k, v, 0.2)
    assert rel(actual, lambda *tensors: attention.attention_reference(*tensors, 0.2), q, k, v) < TYPES[dtype]
    assert actual.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "depth", "width"), [((2, 70), 80, 72), ((64,), 64, 64)])
def test_geglu_at_ragged_sizes(rows: tuple[int, ...], depth: int, width: int, dtype: torch.dtype) -> None:
    x = random(*rows, depth, dtype=dtype)
    weight = (random(2 * width, depth, dtype=torch.float32, seed=1) / depth**0.5).to(dtype)
    bias = random(2 * width, dtype=dtype, seed=2)
    assert rel(geglu.geglu(x, weight, bias), geglu.geglu_reference, x, weight, bias) < TYPES[dtype]


@pytest.mark.parametrize(("shared", "tiling"), [(227 << 10, geglu.DEEP), (99 << 10, geglu.DEFAULT)])
def test_tiles_of_geglu_fit_the_card(shared: int, tiling: geglu.Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(shared_memory_per_block_optin=shared)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    with FakeTensorMode():
        assert geglu.tiling_for(torch.empty(8, 1280, dtype=torch.float16, device="cuda")) == tiling
        assert geglu.tiling_for(torch.empty(8, 640, dtype=torch.float16, device="cuda")) == geglu.DEFAULT


def test_gelu_everywhere() -> None:
    gate = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([-6e4, -1e3, 1e3, 6e4])]).to(DEVICE)
    x, weight = torch.zeros(len(gate), 16, device=DEVICE), torch.zeros(32, 16, device=DEVICE)
    x[:, 0], weight[16:, 0] = gate, 1
    bias = torch.cat([torch.ones(16), torch.zeros(16)]).to(DEVICE)
    actual, expected = geglu.geglu(x, weight, bias)[:, 0], torch.nn.functional.gelu(gate.double())
    assert float((actual - expected).abs().max()) < 1e-6


def test_fp8_product_is_as_far_off_as_its_format() -> None:
    x, weight = random(64, 128, dtype=torch.float32), random(32, 128, dtype=torch.float32, seed=1)
    (x8, x_scale), (weight8, weight_scale) = map(fp8.quantised_rows, (x, weight))
    actual = fp8.fp8_product(x8, weight8, x_scale, weight_scale.T.contiguous())
    assert rel(actual, torch.nn.functional.linear, x, weight) < 0.05  # 3 bits of mantissa: up to 1/16 a factor
    assert float(fp8.quantised_rows(torch.zeros(1, 16))[1]) > 0


@pytest.mark.parametrize("dtype", [*TYPES, torch.float8_e4m3fn])
@pytest.mark.parametrize(
    ("shape", "columns", "taps"), [((3, 48, 5, 20), 80, (3, 3)), ((2, 32, 9, 33), 64, (3, 1))], ids=["space", "frames"]
)
def test_convolution(shape: tuple[int, ...], columns: int, taps: tuple[int, int], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=torch.float32).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = (random(columns, shape[1], *taps, dtype=torch.float32, seed=1) / 20).to(dtype)
    scale, bias = (random(columns, dtype=torch.float32, seed=seed) for seed in (2, 3))
    actual = implicit_gemm.tiled_convolution(x, weight, bias, scale, None, TILING)
    allowed = 2e-3 if x.is_cuda and dtype == torch.float8_e4m3fn else 1e-6  # sums of FP8 are narrower there
    assert rel(actual, convolution.convolution_reference, x, weight, bias, scale) < allowed
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("shape", "taps"),
    [((3, 32, 8, 16), (3, 3)), ((3, 32, 7, 21), (3, 3)), ((2, 32, 9, 33), (3, 1)), ((3, 32, 5, 16), (3, 1))],
    ids=["space", "space with edges", "frames with edges", "frames of few pixels"],
)
def test_convolution_adds_and_takes_moments(shape: tuple[int, ...], taps: tuple[int, int], dtype: torch.dtype) -> None:
    x = random(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = (random(80, shape[1], *taps, dtype=torch.float32, seed=1) / 20).to(dtype)
    bias = (random(80, dtype=torch.float32, seed=2) + 30).to(dtype)  # far from zero
    added = random(shape[0], 80, *shape[2:], dtype=dtype, seed=3)
    out, found, counts = implicit_gemm.tiled_convolution_and_moments(x, weight, bias, None, added, TILING)
    with_added = lambda *tensors: convolution.convolution_reference(*tensors[:3], None, tensors[3])  # noqa: E731
    assert rel(out, with_added, x, weight, bias, added) < TYPES[dtype]
    part = convolution.part(x, weight, TILING.pixels)
    expected, expected_counts = parts.moments_reference(out.double(), *part)
    assert torch.equal(counts.double(), expected_counts)
    assert found.shape == expected.shape
    for actual, wanted in zip(found, expected, strict=True):
        assert float((actual.double() - wanted).norm() / wanted.norm()) < 1e-6
    frames = shape[0] * (shape[2] if taps[1] == 1 else 1)
    for batch in (frames, shape[0], 1):  # the same parts are those of frames, clips, and everything
        merged = found.reshape(2, batch, -1, 80), counts.reshape(batch, -1)
        scale, shift = group_norm.group_factors(*merged, torch.ones_like(bias), torch.zeros_like(bias), 8, 1e-5)
        values = out.double().permute(0, 2, 3, 1).reshape(batch, -1, 8, 10)
        variance, mean = torch.var_mean(values, (1, 3), correction=0)
        inverse = torch.rsqrt(variance + 1e-5).repeat_interleave(10, 1)
        assert torch.allclose(scale.double(), inverse, rtol=1e-5)
        assert torch.allclose(shift.double(), -mean.repeat_interleave(10, 1) * inverse, rtol=1e-5)


@pytest.mark.parametrize("taps", [(3, 3), (3, 1)], ids=["space", "frames"])
def test_operators_of_convolutions_are_what_pytorch_expects(taps: tuple[int, int]) -> None:
    x = random(2, 16, 9, 33, dtype=torch.float32).cpu().contiguous(memory_format=torch.channels_last)
    weight, bias = random(32, 16, *taps, dtype=torch.float32).cpu(), random(32, dtype=torch.float32).cpu()
    added = random(2, 32, 9, 33, dtype=torch.float32).cpu()
    for arguments in ((x, weight, bias), (x, weight, bias, bias, added)):
        for operator in (convolution.convolution, convolution.convolution_and_moments):
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("shape", [(50, 72, 128), (50, 18, 32), (76, 90, 160), (2, 25, 9216), (2, 38, 14400)], ids=str)
def test_boxes_leave_little_over(shape: tuple[int, ...]) -> None:
    covered = 256 * math.prod(parts.tiles(shape, parts.box(shape, 256)))
    assert covered <= 1.05 * math.prod(shape)


def test_geglu_in_fp8() -> None:
    x, weight = random(70, 80, dtype=torch.float32), random(144, 80, dtype=torch.float32, seed=1) / 9
    (x8, x_scale), (weight8, scale) = map(fp8.quantised_rows, (x, weight))
    arguments = x8, weight8, random(144, dtype=torch.float32, seed=2), x_scale, scale.T.contiguous()
    actual = geglu.tiled_geglu(*arguments, False, geglu.Tiling(64, 32, 64, 4, 2))
    assert rel(actual, geglu.geglu_reference, *arguments) < (2e-3 if actual.is_cuda else 1e-6)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float8_e4m3fn])
@pytest.mark.parametrize("side", [0, 16])
@pytest.mark.parametrize("turned", [False, True])
def test_two_layers_and_a_residual(turned: bool, side: int, dtype: torch.dtype) -> None:
    """Rows of pixels or of frames, fewer pixels than tiles have; one tile of columns is not full."""
    wide = torch.float32 if dtype == torch.float8_e4m3fn else dtype
    x = random(2, 39, 3, 80, dtype=torch.float32).to(dtype).transpose(1, 2)
    more, residual = (random(2, 3, 39, size, dtype=wide, seed=size) for size in (48, 64))
    x, more = (x.contiguous(), more.transpose(1, 2).contiguous().transpose(1, 2)) if turned else (x, more)
    weight = (random(64, 80, dtype=torch.float32, seed=1) / 9).to(dtype)
    bias, scale = random(64, dtype=wide, seed=2), random(64, dtype=torch.float32, seed=3)
    arguments = x, weight, bias, residual, scale, more, random(64, 48, dtype=wide, seed=4) / 7
    actual = linear.tiled_linear(*arguments, linear.Tiling(32, 32, side, 64, 4, 2))
    allowed = 2e-3 if x.is_cuda and dtype == torch.float8_e4m3fn else TYPES[wide]  # sums of FP8 are narrower there
    assert rel(actual, linear.linear_reference, *arguments) < allowed
    alone = linear.tiled_linear(x, weight, bias, residual, None, None, None, linear.Tiling(32, 32, side, 64, 4, 2))
    assert rel(alone, linear.linear_reference, x, weight, bias, residual) < allowed


HALF = torch.float16
ONCE = 2e-3  # rel that is allowed where half precision rounds once


@pytest.mark.parametrize(
    "lay",
    [
        lambda x: torch.cat([x, x], -1).chunk(2, -1)[1],
        lambda x: torch.cat([x, x], -1).transpose(1, 2).contiguous().transpose(1, 2).chunk(2, -1)[0],
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x[:, :, :1].clone().as_strided((2, 3, 1, 32), (96, 32, 1, 1)),  # one pixel, whatever its stride
        lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view(x.shape),  # an odd address
    ],
    ids=["half", "half turned", "repeated", "frames first", "one pixel", "odd"],
)
def test_linear_layers_read_any_layout(lay: Callable[[Tensor], Tensor]) -> None:
    x, more = (lay(random(2, 3, 39, 32, dtype=HALF, seed=seed)) for seed in (0, 1))
    residual = random(*x.shape[:3], 48, dtype=HALF, seed=2)
    weight, more_weight = (random(48, 32, dtype=HALF, seed=seed) / 6 for seed in (3, 4))
    bias = random(48, 2, dtype=HALF, seed=5)[:, 0]
    tiling = linear.Tiling(32, 32, 16, 64, 4, 2)
    actual = linear.tiled_linear(x, weight, bias, residual, None, more, more_weight, tiling)
    expected = lambda *tensors: linear.linear_reference(*tensors[:4], None, *tensors[4:])  # noqa: E731
    assert rel(actual, expected, x, weight, bias, residual, more, more_weight) < ONCE


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((1, 32, 5, 7), (1, 1, 224, 32)), ((2, 32, 1, 7), (224, 1, 1, 32)), ((2, 32, 7, 1), (224, 1, 32, 1))],
)
def test_convolutions_do_not_mind_strides_along_axes_of_one(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    x = random(math.prod(shape), dtype=HALF).as_strided(shape, strides)
    weight, bias, scale = random(16, 32, 3, 3, dtype=HALF, seed=1) / 17, *random(16, 2, dtype=HALF, seed=2).unbind(1)
    added = random(*shape[:1], 16, *shape[2:], dtype=HALF, seed=3)
    actual = implicit_gemm.tiled_convolution(x, weight, bias, scale, added, TILING)
    assert rel(actual, convolution.convolution_reference, x, weight, bias, scale, added) < ONCE


@pytest.mark.parametrize("x", [random(32, 1, dtype=HALF).T, random(161, dtype=HALF)[1:].view(5, 32)], ids=str)
def test_gates_of_rows_at_any_place(x: Tensor) -> None:
    weight, bias = random(32, 32, dtype=HALF, seed=1) / 6, random(32, 2, dtype=HALF, seed=2)[:, 1]
    actual = geglu.tiled_geglu(x, weight, bias, None, None, False, geglu.Tiling(64, 32, 64, 4, 2))
    assert rel(actual, geglu.geglu_reference, x, weight, bias) < ONCE


def test_norms_by_weights_that_lie_apart() -> None:
    x, weights = random(2, 16, 3, 5, dtype=torch.float32), random(16, 3, dtype=torch.float32, seed=1)
    weight, bias, offset = weights.unbind(1)
    found = group_norm.group_factors(*moments.moments(x), weight, bias, 4, 1e-5, offset)
    expected = lambda *tensors: group_norm.group_norm_reference(*tensors, 4, 1e-5)  # noqa: E731
    assert rel(group_norm.apply_factors(x, *found), expected, x + offset[:, None, None], weight, bias) < 1e-6


def test_short_attention_of_heads_that_lie_far_apart() -> None:
    apart = 1 << 30  # values from head to head: those of the third lie beyond 32 bits
    memory = torch.empty(2 * apart + 64, dtype=HALF, device=DEVICE)  # hardly any of which is touched
    q = memory.as_strided((1, 3, 4, 16), (1, apart, 16, 1)).copy_(random(1, 3, 4, 16, dtype=HALF))
    actual = attention.short_attention(q, q, q, 0.2)
    assert rel(actual, lambda *tensors: attention.attention_reference(*tensors, 0.2), q, q, q) < TYPES[HALF]


@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (16, 8)])
def test_gradient_of_short_attention(queries: int, keys: int) -> None:
    shapes = ((3, queries, 2, 16), (3, keys, 2, 16), (3, keys, 2, 16))
    q, k, v = (random(*s, dtype=torch.float32, seed=n).transpose(1, 2) for n, s in enumerate(shapes))
    ours, theirs = (
        [part.detach().to(dtype).requires_grad_() for part in (q, k, v)] for dtype in (q.dtype, torch.float64)
    )
    arriving = random(3, 2, queries, 16, dtype=torch.float32, seed=4)
    attention_gradient.attend(*ours).backward(arriving)
    torch.nn.functional.scaled_dot_product_attention(*theirs).backward(arriving.double())
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine.grad.double() - other.grad).norm() / other.grad.norm()) < 1e-5
