"""`stt2v bench kernels`: each kernel beside its reference, eager and compiled, and beside the machine's ceilings."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stt2v.bench.timing import Ceilings, Timing, device_name, measure_ceilings, recorded, time_calls
from stt2v.export.token_sums import WIDEST
from stt2v.kernels.attention import attention_reference, long_attention, short_attention
from stt2v.kernels.convolution import convolution, convolution_reference
from stt2v.kernels.fp8 import LARGEST, TYPE, fp8_product, quantised_rows
from stt2v.kernels.geglu import geglu, geglu_reference
from stt2v.kernels.group_norm import apply_factors, group_factors, group_norm_reference
from stt2v.kernels.linear import linear, linear_reference
from stt2v.kernels.moments import moments

Function = Callable[..., Any]

CALLS = 20


@dataclass(frozen=True)
class Case:
    """One kernel at one size: ways to run it by name, its reference, and the least work it can be.

    `operations` and `moved` (bytes, each input read once and each output written once), both in half precision, give
    the floor.
    """

    name: str
    size: str
    functions: Mapping[str, Function]
    reference: Function
    arguments: tuple[Tensor, ...]
    operations: float
    moved: float


@dataclass(frozen=True)
class Row:
    """What came of a case; rel is against the reference in float32.

    Times in milliseconds. eager, compiled and floor are of half precision, and teraflops and gigabytes (a second) are
    by its work: FP8 may well be below such a floor.
    """

    name: str
    size: str
    time: Timing
    eager: Timing
    compiled: Timing
    rel: float
    teraflops: float
    gigabytes: float
    floor: float


@dataclass(frozen=True)
class KernelReport:
    """All kernels on one machine."""

    machine: str
    ceilings: Ceilings
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """The table in words."""
        limits = f"{self.ceilings.teraflops:.0f} TFLOP/s, {self.ceilings.gigabytes:.0f} GB/s measured"
        return [f"{self.machine} ({limits})", *map(_line, self.rows), *self.problems]

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        return asdict(self)


def _line(row: Row) -> str:
    return (
        f"  {row.name} {row.size}: {row.time.median:.3f} ms (eager {row.eager.median:.3f}, compiled"
        f" {row.compiled.median:.3f}, floor {row.floor:.3f}), {row.teraflops:.0f} TFLOP/s, {row.gigabytes:.0f} GB/s,"
        f" rel {row.rel:.1e}"
    )


def measure_kernels(device: str) -> KernelReport:
    """Measure every kernel at the sizes of a streaming step (on a CPU at toy sizes)."""
    ceilings = measure_ceilings(device)
    rows: list[Row] = []
    problems: list[str] = []
    with torch.no_grad():
        for case in cases(device):
            try:
                rows.extend(_measure(case, device, ceilings))
            except Exception as exc:  # a kernel that fails must not hide what the others did
                problems.append(f"  {case.name} {case.size}: {type(exc).__name__}: {str(exc).strip()[:300]}")
    return KernelReport(device_name(device), ceilings, tuple(rows), tuple(problems))


def _measure(case: Case, device: str, ceilings: Ceilings) -> Iterator[Row]:
    torch._dynamo.reset()
    compiled = torch.compile(case.reference, dynamic=False)
    eager = time_calls(recorded(lambda: case.reference(*case.arguments), device), device, CALLS)
    by_compiler = time_calls(recorded(lambda: compiled(*case.arguments), device), device, CALLS)
    floor = max(case.operations / ceilings.teraflops / 1e9, case.moved / ceilings.gigabytes / 1e6)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has the error of half precision
        expected = case.reference(*(tensor.float() for tensor in case.arguments))
    for name, function in case.functions.items():
        rel = float((function(*case.arguments).float() - expected).norm() / expected.norm())
        time = time_calls(recorded(functools.partial(function, *case.arguments), device), device, CALLS)
        rates = case.operations / time.median / 1e9, case.moved / time.median / 1e6
        yield Row(" ".join(filter(None, (case.name, name))), case.size, time, eager, by_compiler, rel, *rates, floor)


def cases(device: str) -> Iterator[Case]:
    """Levels of the UNet of StreamingSVD, from the latents' resolution downwards."""
    full = device == "cuda"
    dtype = torch.float16 if full else torch.float32
    levels = ((320, 72, 128), (640, 36, 64), (1280, 18, 32)) if full else ((64, 8, 16),)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    for channels, height, width in levels:
        pixels, frames = height * width, 25
        yield norm(make, "space", 2 * frames, channels, height, width)
        yield norm(make, "frames", 2, channels, frames, pixels)
        yield taps(make, "space", 2 * frames, channels, height, width, (3, 3))
        yield taps(make, "frames", 2, channels, frames, pixels, (3, 1))
        tokens = 2 * frames * pixels
        yield gates(make, tokens, channels)
        if channels <= WIDEST:
            yield ending(make, frames, pixels, channels)
        heads = channels // 64
        yield attention(make, "frames", short_attention, 2 * pixels, heads, frames, frames)
        yield attention(make, "CAM", short_attention, 2 * pixels, heads, frames, 7)
        yield attention(make, "enhancer", short_attention, 2 * pixels, heads, 38, 38)
        if full:
            yield attention(make, "pixels", long_attention, 2 * frames, heads, pixels, pixels)
            yield product(make, tokens, channels, channels)


def norm(make: Function, kind: str, batch: int, channels: int, height: int, width: int) -> Case:
    """GroupNorm and SiLU; reading twice and writing once is the least there is."""
    x = make(batch, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight, bias = make(channels), make(channels)
    fused = torch.compile(lambda *factors: functional.silu(apply_factors(*factors)), dynamic=False)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused(x, *group_factors(*moments(x), weight, bias, 32, 1e-5))

    def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.silu(group_norm_reference(x, weight, bias, 32, 1e-5))

    size = f"{kind} {list(x.shape)}"
    return Case("group_norm_silu", size, {"": function}, reference, (x, weight, bias), 0, 3 * x.nbytes)


def taps(make: Function, kind: str, batch: int, channels: int, height: int, width: int, size: tuple[int, int]) -> Case:
    """A convolution, in FP8 too, on maps that its producer has quantised."""
    x = make(batch, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = make(channels, channels, *size).contiguous(memory_format=torch.channels_last) / (channels * size[0]) ** 0.5
    bias = make(channels)
    rows, scale = quantised_rows(weight.flatten(1))
    x_scale = x.abs().max().float() / LARGEST
    maps = (x.float() / x_scale).to(TYPE)
    narrow = rows.reshape(weight.shape).contiguous(memory_format=torch.channels_last)
    factors = scale.flatten() * x_scale
    functions: dict[str, Function] = {
        "": convolution,
        "fp8": lambda x, weight, bias: convolution(maps, narrow, bias, factors),
    }
    operations = 2.0 * x.numel() * channels * size[0] * size[1]
    shape, moved = f"{kind} {list(x.shape)}", 2 * x.nbytes + weight.nbytes
    return Case("convolution", shape, functions, convolution_reference, (x, weight, bias), operations, moved)


def gates(make: Function, tokens: int, channels: int) -> Case:
    """The first layer of a feed-forward block, in FP8 too, on rows that its producer has quantised."""
    inner = 4 * channels
    x, weight, bias = make(tokens, channels), make(2 * inner, channels) / channels**0.5, make(2 * inner)
    (rows, x_scale), (narrow, scale) = quantised_rows(x), quantised_rows(weight)
    scale = scale.T.contiguous()
    functions: dict[str, Function] = {
        "": geglu,
        "fp8": lambda x, weight, bias: geglu(rows, narrow, bias, x_scale, scale),
        "fp8 to fp8": lambda x, weight, bias: geglu(rows, narrow, bias, x_scale, scale, True),
    }
    moved = x.nbytes + weight.nbytes + tokens * inner * x.element_size()
    operations = 4.0 * tokens * channels * inner
    return Case("geglu", f"{tokens}x{channels}", functions, geglu_reference, (x, weight, bias), operations, moved)


def ending(make: Function, frames: int, pixels: int, channels: int) -> Case:
    """The end of a transformer over frames: two layers of tokens, [2, P, F, K], added to maps, [2, F, P, C]."""
    inner = 4 * channels
    x, more = (make(2, pixels, frames, size).transpose(1, 2) for size in (inner, channels))
    weight, more_weight = (make(channels, size) / size**0.5 for size in (inner, channels))
    bias, residual = make(channels), make(2, frames, pixels, channels)

    def function(*tensors: Tensor) -> Tensor:
        x, weight, bias, residual, *more = tensors
        out: Tensor = linear(x, weight, bias, residual, None, *more)
        return out

    def reference(*tensors: Tensor) -> Tensor:
        x, weight, bias, residual, *more = tensors
        return linear_reference(x, weight, bias, residual, None, *more)

    tensors = (x, weight, bias, residual, more, more_weight)
    moved = sum(tensor.nbytes for tensor in tensors) + residual.nbytes
    operations = 2.0 * residual.numel() * (inner + channels)
    return Case("linear_sum", f"{list(residual.shape)}", {"": function}, reference, tensors, operations, moved)


def attention(
    make: Function, kind: str, kernel: Function, batch: int, heads: int, queries: int, keys: int, width: int = 64
) -> Case:
    """Heads lie beside each other in a token, as linear layers leave them."""
    q = make(batch, queries, heads, width).transpose(1, 2)
    k, v = (make(batch, keys, heads, width).transpose(1, 2) for _ in range(2))

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = kernel(q, k, v, width**-0.5)
        return out

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_reference(q, k, v, width**-0.5)

    size = f"{kind} {batch}x{heads}x{queries}x{keys}"
    operations = 4.0 * batch * heads * queries * keys * width
    return Case("attention", size, {"": function}, reference, (q, k, v), operations, 2 * (q.nbytes + k.nbytes))


def product(make: Function, rows: int, columns: int, depth: int) -> Case:
    """A linear layer in FP8 with the quantising of its input fused by the compiler."""
    x, weight = make(rows, depth), make(columns, depth) / depth**0.5
    narrow, scale = quantised_rows(weight)
    scale = scale.T.contiguous()
    quantise = torch.compile(quantised_rows, dynamic=False)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = quantise(x)
        out: Tensor = fp8_product(x8, narrow, x_scale, scale)
        return out

    size = f"{rows}x{columns}x{depth}"
    moved = x.nbytes + narrow.nbytes + 2 * rows * columns
    return Case("fp8_linear", size, {"": function}, functional.linear, (x, weight), 2.0 * rows * columns * depth, moved)
