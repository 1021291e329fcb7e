"""What a build comes to, before it begins: which engines, how long, how much disk and memory; and whether it fits."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stt2v.engine.build_costs import HOST_BASE, Cost, costs, disk_bytes
from stt2v.engine.duration import in_time
from stt2v.engine.errors import ExportError
from stt2v.engine.inventory import inventory
from stt2v.engine.machine import free_disk, host_memory
from stt2v.engine.models.model import Model
from stt2v.engine.size import in_words
from stt2v.engine.store import SHIPPED
from stt2v.export.build import EngineSetBuild
from stt2v.export.staleness import Survey


@dataclass(frozen=True)
class BuildPlan:
    """The plan of one build. Bytes and seconds are sums over what is known of the engines to build."""

    directory: Path
    reasons: tuple[str, ...]
    reused: tuple[str, ...]
    left: tuple[str, ...]
    why: Mapping[str, str]
    parts: tuple[Cost, ...]
    jobs: int
    disk: int
    disk_free: int
    host: int
    host_there: int
    prunable: int

    @property
    def seconds(self) -> float:
        return sum(part.seconds or 0.0 for part in self.parts)

    @property
    def unknown(self) -> int:
        """Of how many engines no time is known."""
        return sum(part.seconds is None for part in self.parts)

    def lines(self) -> list[str]:
        """The plan in words."""
        if not self.parts and not self.reasons:
            return [f"{self.directory} is current, nothing to build"]
        unknown = f" and {self.unknown} engines of unknown time" if self.unknown else ""
        return [
            f"{self.directory}: {len(self.parts)} engines to build, {len(self.reused)} to take over",
            *(f"  because {reason}" for reason in self.reasons),
            *(f"  {part.graph}: {self._words(part)}; {self.why[part.graph]}" for part in self.parts),
            f"in all about {in_time(self.seconds)}{unknown}, disk {in_words(self.disk)} of {in_words(self.disk_free)}"
            f" free, host memory about {in_words(self.host)} of {in_words(self.host_there)} with --jobs {self.jobs}",
        ]

    def to_json(self) -> dict[str, Any]:
        figures = {"seconds": self.seconds, "unknown": self.unknown, "directory": str(self.directory)}
        return {**asdict(self), **figures, "parts": [asdict(part) for part in self.parts]}

    def check(self) -> None:
        """Raise ExportError, with what would fit, when this machine cannot hold the build."""
        if self.disk > self.disk_free:
            prune = f"`stt2v engines prune` would free {in_words(self.prunable)}; " if self.prunable else ""
            raise ExportError(
                f"the build needs {in_words(self.disk)} of disk at {self.directory.parent}, {in_words(self.disk_free)}"
                f" are free; {prune}free some or choose another disk with --out"
            )
        if self.host > self.host_there:
            fewer = "--jobs 1, " if self.jobs > 1 else ""
            raise ExportError(
                f"the build needs about {in_words(self.host)} of host memory, this machine has"
                f" {in_words(self.host_there)}; what needs less: {fewer}--precision fp16, a smaller --size; or build on"
                " a larger machine and say what for with --target"
            )

    def _words(self, part: Cost) -> str:
        time = f"about {in_time(part.seconds)} by {part.source}" if part.seconds is not None else "time not known"
        return time if part.weight_bytes is None else f"{time}, weights {in_words(part.weight_bytes)}"


def plan_build(build: EngineSetBuild, found: Survey, jobs: int, only: Collection[str]) -> BuildPlan:
    """The plan of `build` after what was found there."""
    wanted = build.builder.wanted
    todo = [decision.graph for decision in found.decisions if not decision.finished]
    built = [graph for graph in todo if graph in (only or todo)]
    parts = costs(Model.from_json(wanted.model), wanted.backend, wanted.precision, built)
    hosts = sorted((part.host_bytes or 0 for part in parts), reverse=True)[:jobs]
    return BuildPlan(
        build.directory,
        found.reasons,
        tuple(decision.graph for decision in found.decisions if decision.finished),
        tuple(graph for graph in todo if graph not in built),
        {decision.graph: decision.reason for decision in found.decisions},
        parts,
        jobs,
        disk_bytes(wanted.backend, parts),
        free_disk(build.directory),
        int(max(HOST_BASE, sum(hosts) - (len(hosts) - 1) * HOST_BASE)) if hosts else 0,
        host_memory(),
        _prunable(),
    )


def _prunable() -> int:
    return sum(found.bytes for found in inventory() if found.state != "current" and found.directory.parent != SHIPPED)
