"""`stt2v bench gpus`: the parts of a video that several cards share, by one of them and by all."""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from stt2v.engine.backends.base import Engine, Value, Values
from stt2v.engine.backends.inductor_values import TorchValue
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.parallel.group import Call, SpreadEngines, run_all
from stt2v.engine.parallel.pace import side_by_side
from stt2v.engine.parallel.processes import Processes
from stt2v.engine.progress import Progress
from stt2v.engine.spec import TensorSpec
from stt2v.engine.stages.denoise import StepInputs, guided_step

ROUNDS, WARM_UPS, CALLS = 5, 2, 2  # CALLS of each process in one go
PREDICTED = (4, 8)
SPREAD = re.compile(r"enhance_\d+_step|(enhance_)?vae_decode(_\d+)?|interpolate_\d+x\d+")
UPDATES = {"noise", "x0_previous"}


@dataclass(frozen=True)
class Part:
    """What a call takes in milliseconds: by one process (`alone`), its network only (`computing`), and in a group.

    together: for each call when a group of the measured size has some; wire: to and from another process, as it was
    worked out and not measured; halves: a step whose guidance halves are the only two calls.
    """

    part: str
    alone: float
    computing: float
    together: float
    wire: float
    halves: bool = False

    @property
    def speedup(self) -> float:
        """As measured."""
        return self.alone / self.together

    def predicted(self, gpus: int) -> float:
        """How many times faster than one process `gpus` should be."""
        if self.halves:
            return self.alone / side_by_side(2, 2, self.computing, self.wire)
        host = max(0.0, self.alone - self.computing)
        return gpus * self.alone / side_by_side(gpus, gpus, self.computing, self.wire, host)

    def waiting(self, gpus: int) -> float:
        """The share of the measured time in which a card does not compute: communication, and the host's work."""
        return 1 - self.computing / (self.together * (1 if self.halves else gpus))


@dataclass(frozen=True)
class SpreadReport:
    """All parts on one machine; bandwidth: bytes a second between two processes, with all that is done for it."""

    model: str
    machine: str
    gpus: int
    bandwidth: float
    parts: tuple[Part, ...]

    def lines(self) -> Iterator[str]:
        """The table in words."""
        yield f"{self.model} on {self.gpus} x {self.machine}, {self.bandwidth / 1e9:.2f} GB/s between processes"
        for part in self.parts:
            sizes = (self.gpus, *PREDICTED)
            guess = ", ".join(f"{part.predicted(size):.2f}x for {size}" for size in sizes)
            measured = f"{part.alone:.1f} ms by one, {part.together:.1f} by {self.gpus} ({part.speedup:.2f}x)"
            yield f"  {part.part}: {measured}, {part.waiting(self.gpus):.1%} not computing; predicted {guess}"

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, and predicted."""
        parts = [
            asdict(part)
            | {
                "speedup": part.speedup,
                "waiting": part.waiting(self.gpus),
                "predicted": {size: part.predicted(size) for size in (self.gpus, *PREDICTED)},
            }
            for part in self.parts
        ]
        return {**asdict(self), "parts": parts}


def measure_spread(engines: EngineSet, gpus: int, trust: bool, progress: Progress) -> SpreadReport:
    """Measure the set's parts by one process and by `gpus`, with random inputs.

    Raises UsageError for fewer than two processes, EngineSetError for a set without guidance halves.
    """
    if gpus < 2:
        raise UsageError(f"number of GPUs is {gpus}, expected at least 2; one process is measured beside them")
    if missing := {"step", "half", "update"} - {*engines}:
        raise EngineSetError(f"engine set {engines.directory} has no {', '.join(sorted(missing))}; build it whole")
    names = [name for name in engines if SPREAD.fullmatch(name)]
    progress.stage("bench", len(names) + 1)
    with Processes(engines, gpus, trust) as group:
        spread = SpreadEngines(engines, group)
        bandwidth = _bandwidth(spread["update"])
        parts = [_step(spread, bandwidth)]
        progress.advance("bench", part="step")
        for name in names:
            parts.append(_part(spread[name], gpus, bandwidth))
            progress.advance("bench", part=name)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "process on a processor"
    return SpreadReport(engines.model.name, machine, gpus, bandwidth, tuple(parts))


def _bandwidth(update: Engine) -> float:
    """Bytes a second to another process and back, by an engine that hardly computes."""
    call = Call(update, _resident(_random(update.spec.inputs)))
    one, two = (_milliseconds(partial(run_all, [call] * count)) for count in (1, 2))
    return _bytes((*update.spec.inputs, *update.spec.outputs)) / max(two - one, 1e-3) * 1e3


def _step(engines: SpreadEngines, bandwidth: float) -> Part:
    """A step of the streaming stage, whose latents stay on the card: fused by one process, by halves in a group."""
    fused, half, update = (engines[name] for name in ("step", "half", "update"))
    values = _resident(_random(fused.spec.inputs))
    borders = {each.name: each for each in half.spec.inputs}
    conditions = {name: values[name] for name in borders if name not in ("x", "coefficients")}
    updates = {name: value for name, value in values.items() if name in UPDATES}
    guidance, coefficients = (np.asarray(values[name]) for name in ("guidance", "coefficients"))
    inputs = StepInputs(values["x"], coefficients, guidance, conditions, updates)
    step = guided_step(engines).step
    together = _milliseconds(lambda: step.each([inputs]))
    alone, *parts = (
        _milliseconds(partial(run_all, [Call(e, _resident(_random(e.spec.inputs)))])) for e in (fused, half, update)
    )
    moved = _bytes((borders["x"], *half.spec.outputs))
    return Part("step by halves", alone, sum(parts), together, moved / bandwidth * 1e3, True)


def _part(engine: Engine, gpus: int, bandwidth: float) -> Part:
    """Independent calls from host to host, as the enhancer and the interpolator make them."""
    inputs = _random(engine.spec.inputs)
    computing = _milliseconds(partial(run_all, [Call(engine, _resident(inputs))]))
    alone = _milliseconds(lambda: _on_host(run_all([Call(engine, inputs)])))
    count = CALLS * gpus
    together = _milliseconds(lambda: _on_host(run_all([Call(engine, inputs)] * count))) / count
    moved = _bytes((*engine.spec.inputs, *engine.spec.outputs))
    return Part(engine.spec.name, alone, computing, together, moved / bandwidth * 1e3)


def _on_host(results: Iterable[Values]) -> Iterator[object]:
    return (np.asarray(value) for outputs in results for value in outputs.values())


def _milliseconds(run: Callable[[], Iterable[object]]) -> float:
    """The median of some runs, each until the card is done with it."""
    times = []
    for _ in range(WARM_UPS + ROUNDS):
        began = time.perf_counter()
        for _ in run():
            pass
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times[WARM_UPS:])


def _random(tensors: Iterable[TensorSpec]) -> dict[str, Value]:
    random = np.random.default_rng(0)
    return {each.name: random.standard_normal(each.shape, np.float32).astype(each.dtype) for each in tensors}


def _resident(values: Values) -> dict[str, Value]:
    """The values where a card computes, if there is one."""
    if not torch.cuda.is_available():
        return dict(values)
    return {name: TorchValue(torch.from_numpy(np.asarray(value)).cuda()) for name, value in values.items()}


def _bytes(tensors: Iterable[TensorSpec]) -> int:
    return sum(each.nbytes for each in tensors)
