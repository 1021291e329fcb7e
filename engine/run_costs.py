"""What a run takes: time and memory of every stage, host memory, disk; measured where there is a certificate."""

import functools
import importlib
from collections.abc import Collection, Iterable, Mapping, Set
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
from stt2v.engine.media.video import encoding_bytes
from stt2v.engine.memory_plan import MemoryPlan, MemoryPlanner, engine_needs
from stt2v.engine.models.enhancers import NO_ENHANCER
from stt2v.engine.models.model import Model
from stt2v.engine.parallel.group import size_of
from stt2v.engine.parallel.wire import check_cards
from stt2v.engine.parity import read_parity
from stt2v.engine.plan import RunPlan
from stt2v.engine.request import Settings
from stt2v.engine.run_calls import Called, Calls, run_calls, shared
from stt2v.engine.size import in_words
from stt2v.engine.store import find_set

HOST_TARGET = "cpu"
PIXELS_HELD = 3
"""How often a chunk's frames are in memory as float32 while they are decoded: in groups, joined, as what is written."""

HOST_OF_ENGINE = 100 << 20
"""Bytes of the host for an engine whose weights are on a card: its code, and what PyTorch keeps of it (17 engines of
StreamingSVD on an H100: 3.0 GiB in fp16 and 3.5 in FP8, of which 1.4 before the first)."""


@dataclass(frozen=True)
class StageCost:
    """One stage: calls of engines, seconds, the most memory; of those engines that are known, `complete` for all.

    bytes: of the first card or process; others: of each other one.
    """

    stage: str
    calls: int
    seconds: float
    bytes: int
    complete: bool
    others: int = 0


@dataclass(frozen=True)
class RunCost:
    """What one run takes on `engines` in so many processes, each with a card of its own unless they are of a processor.

    `missing` says what has to be built. `measured`: not by a table.
    """

    engines: Path | None
    missing: str | None
    measured: bool
    target: str | None
    stages: tuple[StageCost, ...]
    host_bytes: int
    host_there: int
    disk_bytes: int
    disk_free: int
    gpus: int = 1

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
            f"{_least(self.complete)} {in_time(self.seconds)}{self._by} ({source}), host memory"
            f" {in_words(self.host_bytes)} of {in_words(self.host_there)}, disk {in_words(self.disk_bytes)} of"
            f" {in_words(self.disk_free)} free"
        )

    def lines(self) -> list[str]:
        """The costs in words."""
        return [
            self.missing or f"engines: {self.engines}",
            *(
                f"{stage.stage}: {stage.calls} calls of engines, {_least(stage.complete)} {in_time(stage.seconds)},"
                f" {self._memory(stage)}"
                for stage in self.stages
            ),
            f"in all {self.summary}",
        ]

    @property
    def _by(self) -> str:
        if self.gpus == 1:
            return ""
        return f" by {self.gpus} {'processes on one processor' if self.target == HOST_TARGET else 'cards'}"

    def _memory(self, stage: StageCost) -> str:
        where, other = ("host memory", "process") if self.target == HOST_TARGET else ("memory of the card", "card")
        others = f", of each other {other} {in_words(stage.others)}" if self.gpus > 1 else ""
        return f"{where} {in_words(stage.bytes)}{others}"

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
    gpus: int = 1,
) -> RunCost:
    """What the run takes with the engine set in `engines`, else with the one that is found, else with one to be built.

    `graphs`: the engines of the set that are used, by default all but those that are too large here. `budget`: bytes of
    a card for weights that come and go and what runs beside them. `gpus`: how many make the video together. Raises
    EngineSetError for a set in `engines` that is none, UsageError where the budget is too small or there are not so
    many cards, BackendError where PyTorch is not there for several.
    """
    directory, missing = (engines, None) if engines else _found(model, plan, backend)
    manifest = read_manifest(directory) if directory else None
    usable = graphs or (_usable(directory, manifest) if directory and manifest else ())
    if gpus > 1:
        check_cards(gpus, manifest.target if manifest else None)
    needs = engine_needs(directory, manifest) if directory and manifest else {}
    if budget is not None and not needs:
        raise UsageError("--vram is given, only engine sets of inductor for a card keep to it; build one first")
    memory = MemoryPlanner(model, needs, usable, gpus).plan(settings, plan, budget)
    calls = run_calls(model, settings, plan, [name for name in usable if name not in memory.halved], gpus)
    called, spread = _engines(calls.values()), _engines(map(shared, calls.values()))
    figures = measured_figures(model, directory, manifest) if directory and manifest else tabled_figures(model, called)
    place = (manifest.backend, manifest.target) if manifest else ("", "")
    held = _process_memory(place, gpus, called & needs.keys()) + _frame_bytes(model, plan)
    base = _process_memory(place, gpus, spread & needs.keys())
    if HOST_TARGET in place:
        stages = _stages(calls, figures, gpus, 1, held, base)
        held, base = max(stage.bytes for stage in stages), max(stage.others for stage in stages)
    else:
        stages = _stages(calls, figures, gpus, gpus, 0, 0)
    stages = tuple(_on_card(stage, memory) for stage in stages) if needs else stages
    return RunCost(
        directory,
        missing,
        all(name in figures and figures[name].measured for name in called),
        manifest.target if manifest else None,
        stages,
        held + (gpus - 1) * base,
        host_memory(),
        plan.run_bytes,
        free_disk(home()),
        gpus,
    )


def _found(model: Model, plan: RunPlan, backend: str | None) -> tuple[Path | None, str | None]:
    """The engine set that a run would take, or what has to be built."""
    try:
        return find_set(model.name, backend, plan.enhancing.name if plan.enhancing else NO_ENHANCER), None
    except EngineSetError as error:
        return None, f"{error}: {_building(model, backend or 'onnxruntime')}"


def _on_card(stage: StageCost, memory: MemoryPlan) -> StageCost:
    """The stage with what is planned of cards where weights come and go."""
    others = memory.others.get(stage.stage)
    return replace(stage, bytes=memory.peaks[stage.stage] + OUTSIDE, others=0 if others is None else others + OUTSIDE)


def _usable(directory: Path, manifest: Manifest) -> list[str]:
    spared = too_large(read_parity(directory))
    return [entry.spec.name for entry in manifest.engines if entry.spec.name not in spared]


def cost_on(engines: Mapping[str, Engine], model: Model, settings: Settings, plan: RunPlan) -> RunCost | None:
    """What the run takes on engines that are open; None where they are no set's, which say nothing of it."""
    opened = set_of(engines)
    if opened is None:
        return None
    return run_cost(
        model, settings, plan, opened.directory, graphs=[*engines], budget=opened.budget, gpus=size_of(engines)
    )


def _stages(
    calls: Mapping[str, Calls], figures: Mapping[str, Figures], gpus: int, lanes: int, held: int, base: int
) -> tuple[StageCost, ...]:
    """`lanes`: how many processes compute at once; `held`, `base`: bytes of the first one, and of another."""
    engines = {stage: {call.engine for call in counts} for stage, counts in calls.items()}
    others = {stage: {call.engine for call in shared(counts)} for stage, counts in calls.items() if gpus > 1}
    first = _peaks(engines, figures, held, engines.get("interpolate", set()))  # that is asked for before all
    beside = _peaks(others, figures, base, set())
    return tuple(
        StageCost(
            stage,
            counts.total(),
            sum(figures.get(c.engine, Figures()).seconds(n, c.together, lanes) or 0 for c, n in counts.items()),
            first[stage],
            all(figures.get(name, Figures()).complete for name in engines[stage]),
            beside.get(stage, 0),
        )
        for stage, counts in calls.items()
    )


def _peaks(
    stages: Mapping[str, Set[str]], figures: Mapping[str, Figures], base: int, loaded: Set[str]
) -> dict[str, int]:
    """Bytes of a process at most, by stage: engines are loaded when they are first called, and stay loaded."""
    peaks = {}
    for stage, names in stages.items():
        loaded = loaded | names
        held = sum(figures.get(name, Figures()).load or 0 for name in loaded)
        peaks[stage] = int(base + held + max((figures.get(name, Figures()).run or 0 for name in names), default=0))
    return peaks


def _frame_bytes(model: Model, plan: RunPlan) -> int:
    """What the frames of a chunk take while they are decoded, and those that are encoded meanwhile."""
    decoded = PIXELS_HELD * model.chunk * 3 * model.width * model.height * 4
    return decoded + encoding_bytes(plan.width, plan.height)


def _engines(stages: Iterable[Iterable[Called]]) -> set[str]:
    return {call.engine for calls in stages for call in calls}


def _process_memory(place: tuple[str, str], gpus: int, on_card: Set[str]) -> int:
    """What one of so many processes holds beside frames; `on_card`: the engines that it calls with weights there."""
    return _base_memory(*place, gpus > 1) + HOST_OF_ENGINE * len(on_card)


@functools.cache
def _base_memory(backend: str, target: str, several: bool) -> int:
    """What this process holds before its first engine, once it has imported all that a run does.

    several: as one of several processes, which speak through PyTorch.
    """
    for module in ("av", "PIL.Image", "stt2v.engine.session", *(["torch.distributed"] if several else [])):
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
