"""`stt2v plan`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stt2v.engine.backends.inductor_card import inside
from stt2v.engine.batch.listing import pictures_in
from stt2v.engine.commands.options import BackendOption, EnginesOption, GpusOption, JsonOption, VramOption
from stt2v.engine.commands.output import report
from stt2v.engine.engine_set import declared_model
from stt2v.engine.flags import Order, takes_request
from stt2v.engine.manifest import read_manifest
from stt2v.engine.media.image import load_image
from stt2v.engine.models import find_model
from stt2v.engine.models.model import Model
from stt2v.engine.parallel.group import check_size
from stt2v.engine.paths import is_folder
from stt2v.engine.plan import RunPlan, plan_run
from stt2v.engine.run_costs import RunCost, run_cost


@dataclass(frozen=True)
class Planned:
    """A run, what it takes, and how many such videos are made: one for each picture in a folder."""

    plan: RunPlan
    cost: RunCost
    videos: int

    def lines(self) -> Iterator[str]:
        """All in words."""
        if self.videos > 1:
            yield f"{self.videos} videos, one for each picture; of each:"
        yield from self.plan.lines()
        yield from self.cost.lines()

    def to_json(self) -> dict[str, Any]:
        """All for machines."""
        return self.plan.to_json() | {"cost": self.cost.to_json(), "videos": self.videos}


@takes_request
def plan(
    order: Order,
    backend: BackendOption = None,
    engines: EnginesOption = None,
    gpus: GpusOption = 1,
    vram: VramOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run comes to, before any work: frames, chunks, windows, steps; time, memory, disk, missing engines."""
    check_size(gpus, vram)
    model = _declared(order.model, engines)
    settings = order.request.resolve(model)
    videos = _videos(order.request.image)
    planned = plan_run(model, settings)
    budget = None if vram is None else inside(vram)
    cost = run_cost(model, settings, planned, engines, backend, budget=budget, gpus=gpus)
    report(Planned(planned, cost, videos), as_json)


def _declared(model: str, engines: Path | None) -> Model:
    """The model as the set has it, whose size may be another one."""
    return declared_model(engines, read_manifest(engines)) if engines else find_model(model)


def _videos(image: object) -> int:
    """How many videos begin with `image`. Raises InputError for what is no picture."""
    if not isinstance(image, Path):
        return 1
    if is_folder(image):
        return len(pictures_in(image))
    load_image(image)
    return 1
