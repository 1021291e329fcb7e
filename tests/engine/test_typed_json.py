"""JSON is read as the type that it was made of, or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest

from stt2v.engine.typed_json import read_as


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    pair: tuple[float, float]
    inner: Inner
    maybe: Inner | None
    several: tuple[Inner, ...]
    table: Mapping[str, Inner]
    kind: Literal["a", "b"]
    either: int | str
    anything: Any = None


WHOLE = Outer((1.5, 2), Inner("x", (1, 2)), None, (Inner("y"),), {"z": Inner("w")}, "a", "text", {"k": [1]})
DATA = json.loads(json.dumps(asdict(WHOLE)))


def test_what_was_written_is_read() -> None:
    assert read_as(Outer, DATA) == WHOLE
    assert read_as(Outer, DATA | {"maybe": DATA["inner"], "either": 3}).maybe == WHOLE.inner
    assert read_as(Inner, {"name": "x"}) == Inner("x")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"pair": [1]}, "2 parts"),
        ({"pair": [1, True]}, "True"),
        ({"pair": [1, 10**400]}, "too large"),
        ({"pair": "ab"}, "tuple"),
        ({"inner": None}, "None"),
        ({"inner": {"name": 3}}, "3"),
        ({"inner": {"sizes": []}}, "lacks name"),
        ({"inner": {"name": "x", "colour": 1}}, "has no colour"),
        ({"maybe": 5}, "5"),
        ({"several": [1]}, "1"),
        ({"table": []}, "dict"),
        ({"table": {"z": []}}, "dict"),
        ({"kind": "c"}, "'c'"),
        ({"kind": ["a"]}, "none of"),
        ({"either": 1.5}, "1.5"),
    ],
)
def test_what_was_not_written_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(TypeError, match=word):
        read_as(Outer, DATA | change)
