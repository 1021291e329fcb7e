"""What a run is said to take of a card, and what it takes of one that counts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from counting_card import CountingCard

from stt2v import cli
from stt2v.engine.backends.base import Engine, Frames, Value, Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.inductor_card import OUTSIDE
from stt2v.engine.backends.inductor_weights import CardWeights, Row, Table
from stt2v.engine.backends.residency import Residency
from stt2v.engine.engine_set import EngineSet, Without
from stt2v.engine.errors import UsageError
from stt2v.engine.manifest import read_manifest
from stt2v.engine.memory_plan import MemoryPlanner
from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.size import from_words
from stt2v.engine.spec import EngineSpec
from stt2v.engine.store import SHIPPED

TINY, MODEL = SHIPPED / "tiny", find_model("tiny")
PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"
REQUEST = Request(image=PICTURE, num_frames=60, steps=2)
SETTINGS = REQUEST.resolve(MODEL)
PLAN = plan_run(MODEL, SETTINGS)

KIB = 1 << 10
WEIGHTS = {"step": (4000, 500), "first_step": (3000,), "vae_decode_8": (200,)}  # KiB; a half has those of its step
ACTIVATIONS = {"step": 5000, "half": 2600, "first_step": 5200, "first_half": 2700, "vae_decode_8": 5600}
PER_LETTER = 20  # KiB of weights, and of activations, of all other engines


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Of every engine of `tiny`: weights of made-up sizes, which a step shares with its half, and activations."""
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    path.write_bytes(bytes(32 << 20))
    made, offsets, end = {}, dict[tuple[str, int], int](), 0
    for entry in read_manifest(TINY).engines:
        name, rows = entry.spec.name, []
        whole, other = name.replace("half", "step"), PER_LETTER * len(name)
        for number, size in enumerate(WEIGHTS.get(whole, (other,))):
            if (whole, number) not in offsets:
                offsets[whole, number], end = end, end + size * KIB
            rows.append(Row(path, offsets[whole, number], size * KIB, "uint8", (size * KIB,), (1,)))
        made[name] = Table(tuple(rows), False, KIB * ACTIVATIONS.get(name, other))
    return made


class Carded(Mapping[str, Engine]):
    """The engines of `tiny` as cheap arithmetic, with memory on a card as Inductor's have it."""

    def __init__(self, specs: Mapping[str, EngineSpec], tables: Mapping[str, Table], budget: int | None) -> None:
        self.specs, self.tables = specs, tables
        self.card = CountingCard(1 << 40)
        self.weights = CardWeights(Residency(budget), self.card)

    def __getitem__(self, name: str) -> Engine:
        spec, table, weights, card = self.specs[name], self.tables[name], self.weights, self.card

        class Carded(FakeEngine):
            def run(self, inputs: Values) -> dict[str, Value]:
                needs = table.needs(spec)
                weights.of(name, table, needs)
                beside = card.empty(needs.beside)
                outputs = super().run(inputs)
                weights.ahead(name, needs)
                weights._arrived()
                del beside
                return outputs

        return Carded(spec)

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def specs() -> dict[str, EngineSpec]:
    return {entry.spec.name: entry.spec for entry in read_manifest(TINY).engines}


def planner(tables: Mapping[str, Table]) -> MemoryPlanner:
    return MemoryPlanner(MODEL, {name: tables[name].needs(spec) for name, spec in specs().items()}, [*specs()])


def made(tables: Mapping[str, Table], budget: int | None) -> tuple[Frames, CountingCard, int]:
    """Frames of a run in a budget, the card that it ran on, and the bytes of weights that were brought there."""
    planned, plan = planner(tables), PLAN
    halved = planned.too_large(budget)
    engines = Carded(specs(), tables, budget)
    engines.weights.expect(
        [(name, tables[name], planned.needs[name]) for name in planned.first_uses(SETTINGS, plan, halved)]
    )
    with EngineSet.open(TINY) as opened:
        session = Session(MODEL, Without(engines, halved), opened.tokenizers)
        frames = np.concatenate([chunk.frames for chunk in session.generate(REQUEST)])
    return frames, engines.card, engines.weights.residency.moved


def least(tables: Mapping[str, Table]) -> int:
    """The smallest budget that is not refused."""
    planned, low, high = planner(tables), 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        try:
            planned.plan(SETTINGS, PLAN, middle)
            high = middle
        except UsageError:
            low = middle
    return high


def test_the_peak_is_the_one_that_was_planned_and_never_above_the_budget(tables: dict[str, Table]) -> None:
    smallest = least(tables)
    fused = max(needs.nbytes for needs in planner(tables).needs.values())
    peaks = []
    for budget in (None, 2 * fused, fused, (fused + smallest) // 2, smallest):
        planned = planner(tables).plan(SETTINGS, PLAN, budget)
        _, card, _ = made(tables, budget)
        assert card.peak == max(planned.peaks.values()), budget
        assert budget is None or card.peak <= budget
        peaks.append(card.peak)
    assert peaks == sorted(peaks, reverse=True)


def test_less_memory_means_more_is_brought_and_the_same_frames(tables: dict[str, Table]) -> None:
    fused = max(needs.nbytes for needs in planner(tables).needs.values())
    assert not planner(tables).too_large(fused)
    frames, _, brought = made(tables, None)
    again, _, more = made(tables, fused)
    assert more > brought
    np.testing.assert_array_equal(frames, again)


def test_steps_are_halved_only_where_they_do_not_fit(tables: dict[str, Table]) -> None:
    planned = planner(tables)
    size = planned.needs["step"].nbytes
    assert planned.plan(SETTINGS, PLAN, size - 1).halved == {
        name for name, needs in planned.needs.items() if needs.nbytes >= size and name.endswith("step")
    }
    assert planned.plan(SETTINGS, PLAN, None).halved == frozenset()


def test_what_does_not_fit_is_refused_with_what_would(tables: dict[str, Table]) -> None:
    needs = {name: table.needs(specs()[name]) for name, table in tables.items()}
    large = MemoryPlanner(MODEL, {"enhance_vae_decode": needs["step"], "vae_decode_8": needs["half"]}, [*specs()])
    with pytest.raises(UsageError, match=r"at least .* what fits: --no-enhance or more memory"):
        large.plan(SETTINGS, PLAN, needs["half"].nbytes)
    with pytest.raises(UsageError, match="what fits: more memory"):
        large.plan(SETTINGS, PLAN, 1)
    assert OUTSIDE < 2 << 30


def test_halves_give_the_frames_of_fused_steps() -> None:
    short = replace(REQUEST, num_frames=26, steps=1, interpolate=False)
    with Session.open("tiny") as session:
        fused = np.concatenate([chunk.frames for chunk in session.generate(short)])
        assert session.step_down() is not None
        halved = np.concatenate([chunk.frames for chunk in session.generate(short)])
        assert session.step_down() is None
    np.testing.assert_array_equal(fused, halved)


@pytest.mark.parametrize("command", ["plan", "generate"])
@pytest.mark.parametrize(
    ("vram", "said"),
    [("much", "expected an amount such as 24GiB"), ("9" * 400, "expected an amount"), ("24GiB", "inductor")],
)
def test_vram_is_refused_where_it_cannot_be_kept_to(
    command: str, vram: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--model", "tiny", "--image", str(PICTURE), "--vram", vram]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("text", "size"), [("24GiB", 24 << 30), ("22.5g", 45 << 29), ("800 MB", 800 << 20), ("7", 7)])
def test_amounts_of_memory(text: str, size: int) -> None:
    assert from_words(text, "--vram") == size
