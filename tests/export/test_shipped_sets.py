"""The engine set in the package is the one that today's code and weights make."""

import pytest

from stt2v.engine.manifest import read_manifest
from stt2v.engine.models.model import Model
from stt2v.engine.models.tiny import TINY
from stt2v.engine.store import SHIPPED
from stt2v.export.capture import program_from_graph
from stt2v.export.recipes import Recipe, recipe_for

CHEAP = ("first_conditions", "conditions", "update", "vae_decode_1", "enhance_8_conditions")
ENTRIES = {entry.spec.name: entry for entry in read_manifest(SHIPPED / TINY.name).engines}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return recipe_for(TINY, None)


def test_graphs(recipe: Recipe) -> None:
    assert set(recipe.graphs) == set(ENTRIES)


def test_declaration() -> None:
    assert Model.from_json(read_manifest(SHIPPED / TINY.name).model) == TINY
    assert read_manifest(SHIPPED / TINY.name).model.keys() == TINY.to_json().keys()


def test_files(recipe: Recipe) -> None:
    shipped = {name: (SHIPPED / TINY.name / name).read_text() for name in recipe.files}
    assert shipped == recipe.files


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in CHEAP)) for n in ENTRIES])
def test_graph_is_the_shipped_one(recipe: Recipe, name: str) -> None:
    program, entry = program_from_graph(recipe.graphs[name]()), ENTRIES[name]
    assert program.spec == entry.spec
    assert program.weights_hash == entry.weights_hash
    assert program.graph_hash == entry.graph_hash
