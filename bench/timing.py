"""Timing on a device, and the device's ceilings measured the same way."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stt2v.engine.backends.inductor_card import CudaCard

WARM_UPS = 2
MATRIX, COPY = 8192, 1 << 30  # a side of the product; elements of two bytes that are copied
HOST_MATRIX, HOST_COPY = 1024, 1 << 24


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median, and the fastest and slowest of so many."""

    median: float
    fastest: float
    slowest: float
    calls: int


def time_calls(function: Callable[[], object], device: str, calls: int = 10) -> Timing:
    """Time `function` after warming up: by events where the device works asynchronously."""
    for _ in range(WARM_UPS):
        function()
    once = _time_on_gpu if device == "cuda" else _time_on_host
    times = [once(function) for _ in range(calls)]
    return Timing(statistics.median(times), min(times), max(times), calls)


def recorded(function: Callable[[], Any], device: str) -> Callable[[], object]:
    """`function` as one launch: a GPU replays what it recorded, so that short kernels do not wait for the host."""
    if device != "cuda":
        return function
    for _ in range(WARM_UPS):
        function()
    card = CudaCard()
    launch, _ = card.record(function, card.pool())
    return launch


def _time_on_gpu(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _time_on_host(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches on this day: a large product, and a large copy (bytes read plus bytes written)."""

    teraflops: float
    gigabytes: float


def measure_ceilings(device: str) -> Ceilings:
    """Random data throughout: zeros run faster than anything real."""
    side, elements = (MATRIX, COPY) if device == "cuda" else (HOST_MATRIX, HOST_COPY)
    dtype = torch.float16 if device == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = time_calls(lambda: a @ b, device)
    source = torch.randn(elements, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copy = time_calls(lambda: target.copy_(source), device)
    moved = 2 * source.nbytes
    return Ceilings(2 * side**3 / product.median / 1e9, moved / copy.median / 1e6)


def device_name(device: str) -> str:
    """The machine that was measured."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"
