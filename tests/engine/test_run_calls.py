"""The calls that a plan counts are those that a run makes, of every engine."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.backends.base import Engine, Value, Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import find_model
from stt2v.engine.models.model import Model
from stt2v.engine.parallel.group import Alone, Call, Outputs
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.run_calls import Called, run_calls, run_order
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


class Noting(Alone):
    """As a group of `size`, whose calls are all made here: it notes what came at once."""

    def __init__(self, size: int) -> None:
        self.size, self.made = size, Counter[Called]()

    def run_all(self, calls: Iterable[Call]) -> Iterator[Outputs]:
        names = Counter[str]()
        try:
            for call in calls:
                names[call.engine.spec.name] += 1
                yield call.run()
        finally:  # who takes what is made may stop at the last
            self.made.update({Called(name, count): count for name, count in names.items()})


def counted(
    model: Model, request: Request, without: tuple[str, ...] = (), gpus: int = 1
) -> tuple[Counter[Called], Counter[Called]]:
    """Calls as the run makes them, and as they are planned; in the same order up to the interpolator's."""
    specs = {e.spec.name: e.spec for e in read_manifest(TINY).engines if e.spec.name not in without}
    engines, group = Counting(specs), Noting(gpus)
    with EngineSet.open(TINY) as opened:
        session = Session(model, engines, opened.tokenizers)
        session._group = group
        for _ in session.generate(request):
            pass
    settings = request.resolve(model)
    plan = plan_run(model, settings)
    order = [call.engine for calls in run_order(model, settings, plan, specs, gpus).values() for call in calls]
    made, planned = ([name for name in names if not name.startswith("interpolate")] for names in (engines.order, order))
    assert made == planned
    alone = Counter(map(Called, engines.order))
    alone.subtract(Called(name) for name, _ in group.made.elements())
    return group.made + alone, sum(run_calls(model, settings, plan, specs, gpus).values(), Counter())


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
    assert made[Called("half", 2)] == 2 * made[Called("update")] > 0
    halves = {call: count for call, count in made.items() if call.engine == "enhance_8_half"}
    assert sum(halves.values()) == 2 * made[Called("enhance_8_update")]
    assert {call.together for call in halves} == {2, 12}  # of the one window of key frames, and of six windows


def test_several_cards_take_the_streaming_step_apart() -> None:
    made, planned = counted(find_model("tiny"), Request(image=PICTURE, num_frames=60), gpus=2)
    assert made == planned
    assert Called("step") not in made
    assert made[Called("half", 2)] > 0
    assert made[Called("enhance_8_step", 6)] > 0


def test_published_models_without_engines() -> None:
    """Where there is no set yet, steps are taken to be fused."""
    svd = find_model("streaming-svd")
    settings = Request(image=PICTURE).resolve(svd)
    calls = run_calls(svd, settings, plan_run(svd, settings), ())
    assert calls["generate"][Called("step")] == 5 * 30
    assert calls["enhance"][Called("enhance_38_step", 4)] == 4 * 29
    assert calls["interpolate"] == {Called("interpolate_1280x720", 99): 99}
    apart = run_calls(svd, settings, plan_run(svd, settings), (), gpus=8)
    assert (apart["generate"][Called("half", 2)], apart["generate"][Called("update")]) == (5 * 60, 5 * 30 + 25)
    assert apart["enhance"] == calls["enhance"]
    t2v = find_model("streaming-t2v")
    settings = Request(prompt="a; 0: b; 40: c").resolve(t2v)
    calls = run_calls(t2v, settings, plan_run(t2v, settings), ())
    assert (calls["generate"][Called("text_encoder")], calls["generate"][Called("anchor")]) == (2, 1)
    assert calls["enhance"][Called("enhance_24_step", 5)] == 30 * 5
    given = replace(settings, first_chunk="svd")
    assert Called("first_step") not in run_calls(t2v, given, plan_run(t2v, given), ())["generate"]
