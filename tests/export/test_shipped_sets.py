"""The engine sets in the package are those that today's code and weights make."""

from functools import cache

import pytest

from stt2v.engine.manifest import EngineEntry, read_manifest
from stt2v.engine.models import MODELS
from stt2v.engine.models.mini import MINI
from stt2v.engine.models.model import Model
from stt2v.engine.models.tiny import TINY
from stt2v.engine.store import SHIPPED
from stt2v.export.build_model import own_weights
from stt2v.export.capture import program_from_graph
from stt2v.export.recipes import Recipe, recipe_for

SETS = (TINY.name, MINI.name)
CHEAP = {
    TINY.name: ("first_conditions", "conditions", "update", "vae_decode_1", "enhance_8_conditions"),
    MINI.name: ("text_encoder", "conditions", "enhance_conditions", "enhance_vae_encode"),
}


@cache
def recipe(name: str) -> Recipe:
    return recipe_for(MODELS[name], own_weights(name))


def entries(name: str) -> dict[str, EngineEntry]:
    return {entry.spec.name: entry for entry in read_manifest(SHIPPED / name).engines}


@pytest.mark.parametrize("name", SETS)
def test_graphs(name: str) -> None:
    assert set(recipe(name).graphs) == set(entries(name))


@pytest.mark.parametrize("name", SETS)
def test_declaration(name: str) -> None:
    declared = read_manifest(SHIPPED / name).model
    assert Model.from_json(declared) == MODELS[name]
    assert declared.keys() == MODELS[name].to_json().keys()


@pytest.mark.parametrize("name", SETS)
def test_files(name: str) -> None:
    files = recipe(name).files
    assert {file: (SHIPPED / name / file).read_text() for file in files} == files


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        pytest.param(name, graph, marks=[pytest.mark.slow] * (graph not in CHEAP[name]))
        for name in SETS
        for graph in entries(name)
    ],
)
def test_graph_is_the_shipped_one(name: str, graph: str) -> None:
    """Also proves that the weights of the set are those that are shipped beside the training code."""
    program, entry = program_from_graph(recipe(name).graphs[graph]()), entries(name)[graph]
    assert program.spec == entry.spec
    assert program.weights_hash == entry.weights_hash
    assert program.graph_hash == entry.graph_hash
