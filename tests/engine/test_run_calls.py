"""The calls that a plan counts are those that a run makes, of every engine."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.backends.base import Engine, Value, Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import find_model
from stt2v.engine.models.model import Model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.run_calls import run_calls, run_order
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec
from stt2v.engine.store import SHIPPED

TINY = SHIPPED / "tiny"
PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"


class Counting(Mapping[str, Engine]):
    """Engines that compute nothing much and count."""

    def __init__(self, specs: Mapping[str, EngineSpec]) -> None:
        self.specs, self.order = specs, list[str]()

    def __getitem__(self, name: str) -> Engine:
        order, spec = self.order, self.specs[name]

        class Engine(FakeEngine):
            def run(self, inputs: Values) -> dict[str, Value]:
                order.append(name)
                return super().run(inputs)

        return Engine(spec)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def counted(model: Model, request: Request, without: tuple[str, ...] = ()) -> tuple[Counter[str], Counter[str]]:
    """Calls as the run makes them, and as they are planned; in the same order up to the interpolator's."""
    specs = {e.spec.name: e.spec for e in read_manifest(TINY).engines if e.spec.name not in without}
    with EngineSet.open(TINY) as opened:
        engines = Counting(specs)
        for _ in Session(model, engines, opened.tokenizers).generate(request):
            pass
    settings = request.resolve(model)
    plan = plan_run(model, settings)
    order = [name for names in run_order(model, settings, plan, specs).values() for name in names]
    made, planned = ([name for name in names if not name.startswith("interpolate")] for names in (engines.order, order))
    assert made == planned
    return Counter(engines.order), sum(run_calls(model, settings, plan, specs).values(), Counter())


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 64},
        {"num_frames": 1},
        {"num_frames": 90, "steps": 2, "overlap": 6},
        {"num_frames": 30, "enhancer": "none"},
        {"num_frames": 30, "interpolate": False},
    ],
    ids=str,
)
def test_tiny(changes: dict[str, object]) -> None:
    made, planned = counted(find_model("tiny"), Request(image=PICTURE, **changes))
    assert made == +planned


def test_by_halves() -> None:
    made, planned = counted(find_model("tiny"), Request(image=PICTURE, num_frames=60), ("step", "enhance_8_step"))
    assert made == planned
    assert made["half"] == 2 * made["update"] > 0
    assert made["enhance_8_half"] == 2 * made["enhance_8_update"] > 0


def test_published_models_without_engines() -> None:
    """Where there is no set yet, steps are taken to be fused."""
    svd = find_model("streaming-svd")
    settings = Request(image=PICTURE).resolve(svd)
    calls = run_calls(svd, settings, plan_run(svd, settings), ())
    assert calls["generate"]["step"] == 5 * 30
    assert calls["enhance"]["enhance_38_step"] == 4 * 29
    assert calls["interpolate"] == {"interpolate_1280x720": 99}
    t2v = find_model("streaming-t2v")
    settings = Request(prompt="a; 0: b; 40: c").resolve(t2v)
    calls = run_calls(t2v, settings, plan_run(t2v, settings), ())
    assert (calls["generate"]["text_encoder"], calls["generate"]["anchor"]) == (2, 1)
    assert calls["enhance"]["enhance_24_step"] == 30 * 5
    given = replace(settings, first_chunk="svd")
    assert "first_step" not in run_calls(t2v, given, plan_run(t2v, given), ())["generate"]
