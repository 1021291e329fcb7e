"""What a run takes: time and memory of every stage, host memory, disk; measured where there is a certificate."""

import functools
import importlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stt2v.engine.backends import open_backend, runs_here
from stt2v.engine.backends.base import Engine
from stt2v.engine.backends.inductor_card import OUTSIDE
from stt2v.engine.build_costs import costs, disk_bytes, published_graphs
from stt2v.engine.certificate import too_large
from stt2v.engine.duration import in_time
from stt2v.engine.engine_set import set_of
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.figures import Figures, measured_figures, tabled_figures
from stt2v.engine.home import home
from stt2v.engine.machine import free_disk, host_memory, resident_memory
from stt2v.engine.manifest import Manifest, read_manifest
from stt2v.engine.memory_plan import MemoryPlanner, engine_needs
from stt2v.engine.models.enhancers import NO_ENHANCER
from stt2v.engine.models.model import Model
from stt2v.engine.parity import read_parity
from stt2v.engine.plan import RunPlan
from stt2v.engine.request import Settings
from stt2v.engine.run_calls import Calls, run_calls
from stt2v.engine.size import in_words
from stt2v.engine.store import find_set

HOST_TARGET = "cpu"
PIXELS_HELD = 4
"""How often a chunk's frames are in memory as float32 while they are decoded: in groups, joined, clipped, as levels."""


@dataclass(frozen=True)
class StageCost:
    """One stage: calls of engines, seconds, the most memory; of those engines that are known, `complete` for all."""

    stage: str
    calls: int
    seconds: float
    bytes: int
    complete: bool


@dataclass(frozen=True)
class RunCost:
    """What one run takes on `engines`; `missing` says what has to be built. `measured`: not by a table."""

    engines: Path | None
    missing: str | None
    measured: bool
    target: str | None
    stages: tuple[StageCost, ...]
    host_bytes: int
    host_there: int
    disk_bytes: int
    disk_free: int

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def complete(self) -> bool:
        """Whether all engines are counted in."""
        return all(stage.complete for stage in self.stages)

    @property
    def summary(self) -> str:
        """The costs in one line."""
        source = "measured with these engines" if self.measured else "by a table, not measured here"
        return (
            f"{_least(self.complete)} {in_time(self.seconds)} ({source}), host memory {in_words(self.host_bytes)} of"
            f" {in_words(self.host_there)}, disk {in_words(self.disk_bytes)} of {in_words(self.disk_free)} free"
        )

    def lines(self) -> list[str]:
        """The costs in words."""
        memory = "host memory" if self.target == HOST_TARGET else "memory of the card"
        return [
            self.missing or f"engines: {self.engines}",
            *(
                f"{stage.stage}: {stage.calls} calls of engines, {_least(stage.complete)} {in_time(stage.seconds)},"
                f" {memory} {in_words(stage.bytes)}"
                for stage in self.stages
            ),
            f"in all {self.summary}",
        ]

    def to_json(self) -> dict[str, Any]:
        texts = {"engines": str(self.engines) if self.engines else None}
        return {**asdict(self), **texts, "seconds": self.seconds, "complete": self.complete}


def run_cost(
    model: Model,
    settings: Settings,
    plan: RunPlan,
    engines: Path | None = None,
    backend: str | None = None,
    graphs: Collection[str] | None = None,
    budget: int | None = None,
) -> RunCost:
    """What the run takes with the engine set in `engines`, else with the one that is found, else with one to be built.

    `graphs`: the engines of the set that are used, by default all but those that are too large here. `budget`: bytes of
    a card for weights that come and go and what runs beside them. Raises EngineSetError for a set in `engines` that is
    none, UsageError where the budget is too small.
    """
    directory, missing = engines, None
    if directory is None:
        try:
            directory = find_set(model.name, backend, plan.enhancing.name if plan.enhancing else NO_ENHANCER)
        except EngineSetError as error:
            missing = f"{error}: {_building(model, backend or 'onnxruntime')}"
    manifest = read_manifest(directory) if directory else None
    usable = graphs or (_usable(directory, manifest) if directory and manifest else ())
    needs = engine_needs(directory, manifest) if directory and manifest else {}
    if budget is not None and not needs:
        raise UsageError("--vram is given, only engine sets of inductor for a card keep to it; build one first")
    memory = MemoryPlanner(model, needs, usable).plan(settings, plan, budget)
    calls = run_calls(model, settings, plan, [name for name in usable if name not in memory.halved])
    called = [name for counts in calls.values() for name in counts]
    figures = measured_figures(model, directory, manifest) if directory and manifest else tabled_figures(model, called)
    on_host = manifest is not None and manifest.target == HOST_TARGET
    place = (manifest.backend, manifest.target) if manifest else ("", "")
    base = _base_memory(*place) + PIXELS_HELD * model.chunk * 3 * model.width * model.height * 4
    stages = _stages(calls, figures, base if on_host else 0)
    if needs:
        stages = tuple(replace(stage, bytes=memory.peaks[stage.stage] + OUTSIDE) for stage in stages)
    return RunCost(
        directory,
        missing,
        all(name in figures and figures[name].measured for name in called),
        manifest.target if manifest else None,
        stages,
        max(stage.bytes for stage in stages) if on_host else base,
        host_memory(),
        plan.run_bytes,
        free_disk(home()),
    )


def _usable(directory: Path, manifest: Manifest) -> list[str]:
    spared = too_large(read_parity(directory))
    return [entry.spec.name for entry in manifest.engines if entry.spec.name not in spared]


def cost_on(engines: Mapping[str, Engine], model: Model, settings: Settings, plan: RunPlan) -> RunCost | None:
    """What the run takes on engines that are open; None where they are no set's, which say nothing of it."""
    opened = set_of(engines)
    if opened is None:
        return None
    return run_cost(model, settings, plan, opened.directory, graphs=[*engines], budget=opened.budget)


def _stages(calls: Mapping[str, Calls], figures: Mapping[str, Figures], base: int) -> tuple[StageCost, ...]:
    """Engines are loaded when they are first called and stay loaded; the interpolator's is asked for before all."""
    made, loaded = [], {*calls.get("interpolate", ())}
    for stage, counts in calls.items():
        parts = {name: figures.get(name, Figures()) for name in counts}
        loaded |= {*parts}
        held = base + sum(figures.get(name, Figures()).load or 0 for name in loaded)
        made.append(
            StageCost(
                stage,
                counts.total(),
                sum(part.seconds(counts[name]) or 0 for name, part in parts.items()),
                int(held + max((part.run or 0 for part in parts.values()), default=0)),
                all(part.complete for part in parts.values()),
            )
        )
    return tuple(made)


@functools.cache
def _base_memory(backend: str, target: str) -> int:
    """What this process holds before its first engine, once it has imported all that a run does."""
    for module in ("av", "PIL.Image", "stt2v.engine.session"):
        importlib.import_module(module)
    if runs_here(backend, target):
        open_backend(backend, target)
    return resident_memory()


def _building(model: Model, backend: str) -> str:
    """What building all engines of a model takes, in the precision that its backend has by default."""
    precision = "fp32" if backend == "onnxruntime" else "fp16"
    parts = costs(model, backend, precision, published_graphs(model))
    known = sum(part.seconds or 0 for part in parts)
    time = f"at least {in_time(known)}" if known else "time not known"
    return f"about {in_words(disk_bytes(backend, parts))} of disk in {precision}, {time}"


def _least(complete: bool) -> str:
    return "about" if complete else "at least"
