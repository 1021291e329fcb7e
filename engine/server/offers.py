"""What a server offers, and what a video would take: worked out in a process of its own.

Looking for engines and their costs opens their backends, with libraries of gigabytes and a context on the card; the
server itself stays small and holds no device.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from stt2v.engine.backends.base import Closing
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.media.canvas import cut_size
from stt2v.engine.models import MODELS, find_model
from stt2v.engine.models.enhancers import NO_ENHANCER
from stt2v.engine.models.model import Model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.run_costs import RunCost, run_cost
from stt2v.engine.server.child import follow_server
from stt2v.engine.store import find_sets

T = TypeVar("T")


@dataclass(frozen=True)
class Offer:
    """A model whose engines are here. sizes: of the video, the default first, and the enhancer that each takes."""

    model: str
    sizes: Mapping[str, str | None]

    def enhancer(self, size: str | None) -> str | None:
        """The enhancer that gives this size, by default the first. Raises UsageError."""
        if size is not None and size not in self.sizes:
            raise UsageError(f"size is {size}, those of model {self.model!r} here are {', '.join(self.sizes)}")
        return self.sizes[size or next(iter(self.sizes))]


def find_offers(models: Sequence[str]) -> dict[str, Offer]:
    """The offers of those of `models` whose engines are here, by name. Raises UsageError for an unknown one."""
    offers = {name: Offer(name, _sizes(find_model(name))) for name in models or MODELS}
    return {name: offer for name, offer in offers.items() if offer.sizes}


def _sizes(model: Model) -> dict[str, str | None]:
    sizes: dict[str, str | None] = {}
    base = model.width, model.height
    enhanced = cut_size(base, (model.enhancing.width, model.enhancing.height)) if model.enhancing else base
    for (width, height), enhancer in ((enhanced, None), (base, NO_ENHANCER)):
        with suppress(EngineSetError):
            find_sets(model.name, enhancer=enhancer)
            sizes.setdefault(f"{width}x{height}", enhancer)
    return sizes


def find_cost(model: str, request: Request) -> RunCost:
    """What a video takes on the engines that are here. Raises UsageError."""
    declared = find_model(model)
    settings = request.resolve(declared)
    return run_cost(declared, settings, plan_run(declared, settings))


class Planner(Closing):
    """Calls functions in its own process, one after the other; starts another where that one dies."""

    def __init__(self) -> None:
        self._pool = _pool()

    def __call__(self, function: Callable[..., T], *values: Any) -> T:
        """What `function` returns there. Raises what it raises."""
        try:
            return self._pool.submit(function, *values).result()
        except BrokenProcessPool:
            self._pool = _pool()
            return self._pool.submit(function, *values).result()

    def close(self) -> None:
        self._pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), follow_server)
