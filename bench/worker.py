"""One variant in a process of its own, so that variants compile beside each other and are timed one at a time."""

import gc
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy.typing as npt
import torch

from stt2v.bench.timing import Timing, time_calls
from stt2v.bench.variants import ENGINES, VARIANTS, Call, as_engines_run, reference
from stt2v.engine.backends.inductor_recording import LARGEST
from stt2v.engine.models import find_model
from stt2v.export.recipes import recipe_for

REFERENCE, READY = "reference", "ready"
LONGEST_PROFILE = 40  # kernels

Outputs = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class Result:
    """What one variant gave: outputs on the host, time, and what it took."""

    outputs: Outputs
    timing: Timing
    prepare_seconds: float
    peak_bytes: int
    weight_bytes: int
    notes: Mapping[str, int]
    profile: tuple[tuple[str, int, float], ...] = field(default=())  # kernel, calls, milliseconds


def serve(pipe: Connection, model: str, graph: str, variant: str, device: str) -> None:
    """Make the variant ready, say so, and measure it when told. What goes wrong is sent as text.

    The reference is not timed and says nothing in between.
    """
    try:
        with torch.no_grad():
            start = time.monotonic()
            made = recipe_for(find_model(model), None).graphs[graph]()
            if variant == REFERENCE:
                call, _ = reference(made, device)
                pipe.send(_outputs(call))
                return
            call, notes = VARIANTS[variant](made, device)
            del made
            outputs = _outputs(call)
            if device == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
            seconds = time.monotonic() - start
            pipe.send(READY)
            pipe.recv()
            if device != "cuda":
                pipe.send(Result(outputs, time_calls(call, device), seconds, 0, 0, notes))
                return
            weights, peak = _memory(call)
            recorded = variant in ENGINES and peak - weights <= LARGEST
            timed = as_engines_run(call) if recorded else call
            pipe.send(Result(outputs, time_calls(timed, device), seconds, peak, weights, notes, _profile(timed)))
    except Exception:
        pipe.send(traceback.format_exc())


def _outputs(call: Call) -> Outputs:
    return tuple(output.float().cpu().numpy() for output in call())


def _memory(call: Call) -> tuple[int, int]:
    """Bytes of the card before a call, and the most during it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return before, torch.cuda.max_memory_allocated()


def _profile(call: Call) -> tuple[tuple[str, int, float], ...]:
    """The kernels of one call that take longest."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    rows = [(row.key, row.count, row.self_device_time_total / 1e3) for row in profiler.key_averages()]
    return tuple(sorted(rows, key=lambda row: -row[2])[:LONGEST_PROFILE])
