"""What a run takes of a card's memory, worked out before it begins by the very rules that it will run by."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from stt2v.engine.backends.inductor_card import OUTSIDE
from stt2v.engine.backends.inductor_weights import Table
from stt2v.engine.backends.residency import Needs, Residency
from stt2v.engine.errors import PlanError, UsageError
from stt2v.engine.manifest import Manifest
from stt2v.engine.models.model import Model
from stt2v.engine.plan import RunPlan, plan_run
from stt2v.engine.request import Settings
from stt2v.engine.run_calls import Order, run_order, shared
from stt2v.engine.size import in_words
from stt2v.engine.stages.denoise import fused_steps
from stt2v.engine.stages.enhance import enhancer_windows

Peaks = Mapping[str, int]
"""Stage -> bytes of a card at most."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes of the first card, and of each of the others; and the steps that are done by halves."""

    peaks: Peaks
    others: Peaks
    halved: frozenset[str]


def engine_needs(directory: Path, manifest: Manifest) -> dict[str, Needs]:
    """What the engines of a set take of a card, for those whose weights come and go there: Inductor's."""
    entries = [entry for entry in manifest.engines if (entry.backend, entry.target) == ("inductor", "cuda")]
    return {entry.spec.name: Table.read(directory / entry.file).needs(entry.spec) for entry in entries}


@dataclass(frozen=True)
class MemoryPlanner:
    """Plans runs of `model` by so many cards, on engines of these needs, of which those in `graphs` may be used."""

    model: Model
    needs: Mapping[str, Needs]
    graphs: Collection[str]
    gpus: int = 1

    def plan(self, settings: Settings, plan: RunPlan, budget: int | None) -> MemoryPlan:
        """What the run takes in `budget` bytes for weights and activations (None: any).

        Steps that do not fit are done by halves, which gives the same. Raises UsageError with the nearest settings that
        fit when an engine does not fit by itself.
        """
        halved = self.too_large(budget)
        if budget is not None and (least := self._least(settings, plan)) > budget:
            fitting = " or ".join([*self._that_fit(settings, budget), "more memory"])
            raise UsageError(
                f"the run takes at least {in_words(least + OUTSIDE)} of the card's memory, {in_words(budget + OUTSIDE)}"
                f" are for it; what fits: {fitting}"
            )
        order = self._order(settings, plan, halved)
        peaks = self._peaks(order, budget, self.first_uses(settings, plan, halved))
        order = self._order(settings, plan, halved) if self.gpus > 1 else {}
        expected = self.first_uses(settings, plan, halved, others=True)
        others = self._peaks({stage: shared(calls) for stage, calls in order.items()}, budget, expected)
        return MemoryPlan(peaks, others, halved)

    def _peaks(self, order: Mapping[str, Order], budget: int | None, expected: Iterable[str]) -> Peaks:
        """The most bytes in each stage on a card whose engines are called in this order."""
        residency, peaks = Residency(budget), dict[str, int]()
        residency.expect((name, self.needs[name]) for name in expected)
        for stage, calls in order.items():
            residency.peak = residency.held
            for name, _ in calls:
                if needs := self.needs.get(name):
                    residency.use(name, needs)
                    residency.ahead(name, needs.beside)
            peaks[stage] = residency.peak
        return peaks

    def first_uses(self, settings: Settings, plan: RunPlan, halved: Collection[str], others: bool = False) -> list[str]:
        """The engines whose weights come and go, in the order of their first use here, or by `others`."""
        order = itertools.chain.from_iterable(self._order(settings, plan, halved).values())
        calls = shared(order) if others else order
        return [name for name in dict.fromkeys(call.engine for call in calls) if name in self.needs]

    def too_large(self, budget: int | None) -> frozenset[str]:
        """The fused steps that do not fit and have halves."""
        known = [name for name in fused_steps(self.graphs) if name in self.needs]
        return frozenset(name for name in known if budget is not None and self.needs[name].nbytes > budget)

    def _least(self, settings: Settings, plan: RunPlan) -> int:
        """The least bytes in which each engine of a run fits by itself, steps by halves."""
        used = self.first_uses(settings, plan, fused_steps(self.graphs))
        return max((self.needs[name].nbytes for name in used), default=0)

    def _order(self, settings: Settings, plan: RunPlan, halved: Collection[str]) -> Mapping[str, Order]:
        usable = [name for name in self.graphs if name not in halved]
        return run_order(self.model, settings, plan, usable, self.gpus)

    def _that_fit(self, settings: Settings, budget: int) -> Iterator[str]:
        for words, other in self._others(settings):
            with suppress(PlanError):
                if self._least(other, plan_run(self.model, other)) <= budget:
                    yield words

    def _others(self, settings: Settings) -> Iterator[tuple[str, Settings]]:
        """What could be asked for instead, the nearest first."""
        if how := settings.enhancing:
            for window in reversed(enhancer_windows(self.graphs)):
                if window < how.window:
                    smaller = how.in_windows(window)
                    yield f"--window {window} --overlap {smaller.overlap}", replace(settings, enhancing=smaller)
            yield "--no-enhance", replace(settings, enhancing=None)
