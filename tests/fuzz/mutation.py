"""Damaged files and values: what the tests in this folder feed to whatever reads a user's input."""

import faulthandler
import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stt2v import cli
from stt2v.engine.errors import Stt2vError

QUICK, MANY = 25, 1000
HANG = 120  # seconds that no single example may take; then the process ends with a traceback

amounts = pytest.mark.parametrize("examples", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
small_amounts = pytest.mark.parametrize("examples", [QUICK // 5, pytest.param(MANY, marks=pytest.mark.slow)])


def search(examples: int, check: Callable[..., None], **strategies: st.SearchStrategy[Any]) -> None:
    """Call `check` with `examples` drawn values; the first that raises is made small and shown."""

    def guarded(**values: Any) -> None:
        with no_hang():
            check(**values)

    run = settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))(
        given(**strategies)(guarded)
    )
    run()


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Lets an error pass that stt2v raises on purpose, and no other."""
    try:
        yield
    except Stt2vError as error:
        words = str(error)
        assert re.fullmatch(r"[^\n]+", words), words


@contextmanager
def no_hang() -> Iterator[None]:
    """Ends the process when the block takes too long, also inside of native code."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def said(line: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command line, and what it said on stderr."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
        code = cli.main(line)
    return code, err.getvalue()


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with a few edits: bytes changed, cut out, doubled, put in, or the end missing."""
    place = st.integers(0, max(0, len(whole) - 1))
    edit = st.tuples(
        st.sampled_from(["change", "cut", "double", "insert", "end"]), place, st.binary(min_size=1, max_size=8)
    )
    return st.lists(edit, min_size=1, max_size=6).map(lambda edits: _edited(whole, edits))


def _edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, piece in edits:
        head, tail = data[:place], data[place:]
        length = len(piece) ** 3
        data = {
            "change": head + piece + tail[len(piece) :],
            "cut": head + tail[length:],
            "double": head + tail[:length] + tail,
            "insert": head + piece + tail,
            "end": head,
        }[kind]
    return data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def damaged_json(value: Any) -> st.SearchStrategy[Any]:
    """`value`, made of lists and dicts, with one to three parts at any depth left out or replaced by others."""
    return st.builds(_with_parts_replaced, st.just(value), st.lists(json_values, min_size=1, max_size=3), st.randoms())


def _with_parts_replaced(value: Any, parts: list[Any], draw: random.Random) -> Any:
    for part in parts:
        value = _with_part_replaced(value, part, draw)
    return value


def _with_part_replaced(value: Any, part: Any, draw: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return part
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, missing = draw.choice(keys), draw.random() < 0.2
    inner = None if missing else _with_part_replaced(value[key], part, draw)
    if isinstance(value, dict):
        return {k: inner if k == key else v for k, v in value.items() if not (missing and k == key)}
    return [inner if i == key else v for i, v in enumerate(value) if not (missing and i == key)]
