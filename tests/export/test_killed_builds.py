"""Whenever a build is killed: nothing half-built is taken for whole, and the next build goes on and finishes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

from stt2v.engine.errors import EngineSetError
from stt2v.engine.manifest import Manifest
from stt2v.engine.store import leftovers
from stt2v.engine.trust import admit

CASES = [
    pytest.param(False, 5, id="5-points"),
    pytest.param(False, 50, id="50-points", marks=pytest.mark.slow),
    pytest.param(True, 10, id="10-points-onnxruntime", marks=pytest.mark.slow),
]


def whole(directory: Path) -> Manifest | None:
    try:
        return admit(directory)
    except EngineSetError:
        assert not directory.exists()
        return None


@pytest.mark.parametrize(("real", "count"), CASES)
def test_first_build(tmp_path: Path, real: bool, count: int) -> None:
    touches = killing.build_in_child(tmp_path / "whole" / "toy", real)
    assert touches is not None
    wanted = admit(tmp_path / "whole" / "toy")
    points = np.random.default_rng(count).permutation(touches) + 1
    for number, point in enumerate(np.resize(points, count)):  # all of them, some twice, where there are fewer
        directory = tmp_path / str(number) / "toy"
        assert killing.build_in_child(directory, real, int(point)) is None
        whole(directory)
        killing.build_in_child(directory, real)
        assert {**admit(directory).files} == {**wanted.files}, f"killed at {point} of {touches}"
        assert [path.name for path in directory.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize(("real", "count"), CASES[1:])
def test_one_build_killed_again_and_again(tmp_path: Path, real: bool, count: int) -> None:
    """Of another precision than the set that is there, which stays whole until the new one takes its place."""
    directory = tmp_path / "toy"
    touches = killing.build_in_child(directory, real)
    (directory / "update.onnx" if real else directory / "update.places").write_bytes(b"damaged")
    random = np.random.default_rng(count)
    for _ in range(count):
        killing.build_in_child(directory, real, int(random.integers(1, touches)))
    killing.build_in_child(directory, real)
    assert len(admit(directory).engines) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.slow
def test_what_is_finished_is_not_built_again(tmp_path: Path) -> None:
    directory, kept = tmp_path / "toy", {}
    touches = killing.build_in_child(tmp_path / "other" / "toy", False)
    assert touches is not None
    point = 0
    while not directory.exists():
        point += touches // 5
        killing.build_in_child(directory, False, point)
        for entry in finished(directory):
            assert kept.setdefault(entry["spec"]["name"], entry["seconds"]) == entry["seconds"]
    assert {entry.spec.name: entry.seconds for entry in admit(directory).engines}.items() >= kept.items()
    assert kept


def finished(directory: Path) -> Iterator[dict[str, Any]]:
    """What the journals of stopped builds hold, torn lines left out."""
    for path in (folder / ".finished" for folder in leftovers(directory)):
        for line in path.read_text().splitlines() if path.exists() else []:
            yield json.loads(line.partition(" ")[2])["entry"]
