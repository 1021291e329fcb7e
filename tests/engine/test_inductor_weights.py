"""Weights that come to a card and go, on a stand-in for one that counts its bytes."""

import json
from pathlib import Path
from threading import Event, Timer
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from counting_card import CountingCard

from stt2v.engine.backends.inductor_card import SLACK
from stt2v.engine.backends.inductor_weights import TABLE, CardWeights, MappedWeights, Row, Table
from stt2v.engine.backends.residency import Residency
from stt2v.engine.errors import OutOfMemoryError
from stt2v.engine.spec import EngineSpec, TensorSpec

SPEC = EngineSpec("x", (TensorSpec("x", "float32", (4,)),), ())
LARGE = 1 << 20
SIZES = {"a": (70 << 20, 4), "b": (1000, 12), "c": (64, 0)}  # bytes of its weights; a takes more than a buffer


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 71 << 20, np.uint8).tobytes())
    made, offset = {}, 64
    for name, sizes in SIZES.items():
        rows = []
        for size in sizes:
            rows.append(Row(path, offset, size, "float16", (size // 4, 2), (1, size // 4)))
            offset += size
        made[name] = Table(tuple(rows), False, 1 << 20)
    return made


def same(one: list[Any], other: list[Any]) -> bool:
    return all(
        a.numpy().tobytes() == b.numpy().tobytes() and a.stride() == b.stride() for a, b in zip(one, other, strict=True)
    )


def test_a_table_is_read_once_and_anew_where_the_engine_is_another(tmp_path: Path) -> None:
    def write(path: Path, activation_bytes: int) -> Path:
        with ZipFile(path, "w") as file:
            file.writestr(TABLE, json.dumps({"weights": [], "kernels": False, "activation_bytes": activation_bytes}))
        return path

    engine = write(tmp_path / "engine", 1)
    assert Table.read(engine) is Table.read(engine)
    write(tmp_path / "new", 2).replace(engine)
    assert Table.read(engine).activation_bytes == 2


def test_they_are_what_the_file_has_whatever_goes_and_comes(tables: dict[str, Table]) -> None:
    budget = tables["a"].needs(SPEC).nbytes
    card = CountingCard(budget)
    weights, mapped = CardWeights(Residency(budget), card), MappedWeights()
    order = [(name, table, table.needs(SPEC)) for name, table in tables.items()]
    weights.expect(order)
    for name, table, needs in order * 2:
        assert same(weights.of(name, table, needs), mapped.of(name, table, needs))
        weights.ahead(name, needs)
    assert weights.residency.moved > sum(map(sum, SIZES.values()))
    assert card.peak + tables["a"].activation_bytes <= budget


class SlowCard(CountingCard):
    """Gives memory for large weights when it is told to."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.told = Event()

    def empty(self, nbytes: int) -> Any:
        if nbytes > LARGE:
            assert self.told.wait(60)
        return super().empty(nbytes)


def test_they_come_before_the_first_engine_runs_and_none_waits_for_those_of_others(tables: dict[str, Table]) -> None:
    card, needs = SlowCard(1 << 30), {name: table.needs(SPEC) for name, table in tables.items()}
    weights = CardWeights(Residency(1 << 30), card)
    weights.expect([(name, tables[name], needs[name]) for name in ("b", "a")])
    assert weights.residency.held == sum(SIZES["a"]) + sum(SIZES["b"])
    weights.of("b", tables["b"], needs["b"])
    weights.ahead("b", needs["b"])
    assert card.held == sum(SIZES["b"])
    card.told.set()
    assert same(weights.of("a", tables["a"], needs["a"]), MappedWeights().of("a", tables["a"], needs["a"]))


def test_none_come_before_a_first_engine_that_would_have_no_room(tables: dict[str, Table]) -> None:
    needs = {name: table.needs(SPEC) for name, table in tables.items()}
    weights = CardWeights(Residency(needs["a"].nbytes), CountingCard(1 << 30))
    weights.expect([(name, table, needs[name]) for name, table in tables.items()])
    assert weights.residency.held == sum(SIZES["a"])


def test_those_that_are_on_their_way_may_go(tables: dict[str, Table]) -> None:
    needs = {name: table.needs(SPEC) for name, table in tables.items()}
    card = SlowCard(1 << 30)
    weights = CardWeights(Residency(needs["a"].nbytes), card)
    weights.expect([("a", tables["a"], needs["a"])])
    Timer(0.1, card.told.set).start()
    for name in ("b", "c"):
        weights.of(name, tables[name], needs[name])
    assert card.held == weights.residency.held


def test_what_is_released_is_given_back(tables: dict[str, Table]) -> None:
    card = CountingCard(1 << 30)
    weights = CardWeights(Residency(), card)
    for name, table in tables.items():
        weights.of(name, table, table.needs(SPEC))
    assert card.held == weights.residency.held == sum(map(sum, SIZES.values()))
    for table in tables.values():
        weights.release(table)
    assert card.held == weights.residency.held == 0


def test_what_is_released_does_not_wait_for_those_of_others(tables: dict[str, Table]) -> None:
    card, needs = SlowCard(1 << 30), {name: table.needs(SPEC) for name, table in tables.items()}
    weights = CardWeights(Residency(1 << 30), card)
    weights.expect([(name, tables[name], needs[name]) for name in ("b", "a")])
    weights.release(tables["b"])
    assert (card.held, weights.residency.held) == (0, sum(SIZES["a"]))
    card.told.set()


def test_a_card_that_is_full_all_the_same_leaves_the_account_right(tables: dict[str, Table]) -> None:
    card = CountingCard(2000)  # others have taken what the budget counts on
    weights = CardWeights(Residency(1 << 30), card)
    a, b = tables["a"], tables["b"]
    weights.of("b", b, b.needs(SPEC))
    with pytest.raises(torch.OutOfMemoryError):
        weights.of("a", a, a.needs(SPEC))
    assert weights.residency.held == card.held == 1012


def test_what_fails_to_come_is_told_to_the_engine_that_needs_it(tables: dict[str, Table]) -> None:
    weights = CardWeights(Residency(1 << 30), CountingCard(2000))
    needs = {name: table.needs(SPEC) for name, table in tables.items()}
    weights.expect([(name, tables[name], needs[name]) for name in ("b", "a")])
    weights.of("b", tables["b"], needs["b"])
    weights.release(tables["b"])
    with pytest.raises(torch.OutOfMemoryError):
        weights.of("a", tables["a"], needs["a"])
    assert weights.residency.held == 0


def test_an_engine_runs_though_those_of_another_fail_to_come_and_some_have_to_go_for_it(
    tables: dict[str, Table],
) -> None:
    card = CountingCard(2000)  # others have taken what the budget counts on
    needs = {name: table.needs(SPEC) for name, table in tables.items()}
    weights = CardWeights(Residency(needs["a"].nbytes + sum(SIZES["b"])), card)
    weights.of("b", tables["b"], needs["b"])
    weights.expect([("a", tables["a"], needs["a"])])
    assert weights.residency.lacks(needs["c"])
    assert same(weights.of("c", tables["c"], needs["c"]), MappedWeights().of("c", tables["c"], needs["c"]))
    assert weights.residency.held == card.held == sum(SIZES["b"]) + sum(SIZES["c"])


def test_an_engine_that_does_not_fit_is_not_brought(tables: dict[str, Table]) -> None:
    weights = CardWeights(Residency(1 << 20), CountingCard(0))
    with pytest.raises(OutOfMemoryError, match="engine 'a' takes"):
        weights.of("a", tables["a"], tables["a"].needs(SPEC))


def test_where_others_took_memory_all_goes_on_in_what_is_left(tables: dict[str, Table]) -> None:
    card = CountingCard(SLACK + (100 << 20))
    weights = CardWeights(Residency(1 << 30), card)
    needs = {name: table.needs(SPEC) for name, table in tables.items()}
    for name in tables:
        weights.of(name, tables[name], needs[name])
    card.capacity -= 90 << 20
    assert weights.refit()
    assert (card.held, weights.residency.budget) == (0, 10 << 20)
    assert not weights.refit()
    weights.of("b", tables["b"], needs["b"])
    with pytest.raises(OutOfMemoryError, match="engine 'a' takes"):
        weights.of("a", tables["a"], needs["a"])
