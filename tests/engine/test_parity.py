from pathlib import Path

import numpy as np
import pytest

from stt2v.engine.errors import ExportError
from stt2v.engine.parity import Parity, compare, read_parity, write_parity

EXPECTED = {"y": np.array([3.0, 4.0], np.float32), "z": np.array([1.0, 2.0], np.float32)}


def test_rel_is_the_worst_output() -> None:
    actual = {"y": np.array([3.0, 4.5]), "z": EXPECTED["z"]}
    parity = compare("step", actual, EXPECTED, "fp8")
    assert parity.rel == pytest.approx(0.5 / 5)
    assert parity.largest == pytest.approx(0.5 / 4)
    assert parity.limit == 0.1
    assert parity.passed


@pytest.mark.parametrize(
    ("value", "problem"),
    [([np.nan, 4], "y has NaN"), ([np.inf, 4], "y has infinities"), ([3.5, 3.5], "y is constant")],
)
def test_problems_are_named(value: list[float], problem: str) -> None:
    parity = compare("step", {**EXPECTED, "y": np.array(value)}, EXPECTED, "fp8")
    assert problem in parity.problems
    with pytest.raises(ExportError, match=f"'step'.*{problem}.*limit 0.1"):
        parity.check()


def test_five_percent_off_fails_half_precision() -> None:
    parity = compare("step", {name: value * 1.05 for name, value in EXPECTED.items()}, EXPECTED, "fp16")
    with pytest.raises(ExportError, match=r"rel 0\.05"):
        parity.check()


def test_zero_reference_needs_zero() -> None:
    zero = {"y": np.zeros(3)}
    assert compare("step", zero, zero, "fp32").rel == 0
    assert not compare("step", {"y": np.array([0, 1e-9, 0])}, zero, "fp32").passed


def test_other_shape_is_refused() -> None:
    with pytest.raises(ExportError, match=r"'y' has shape \[3\]"):
        compare("step", {**EXPECTED, "y": np.zeros(3)}, EXPECTED, "fp32")


def test_table_round_trip(tmp_path: Path) -> None:
    assert read_parity(tmp_path) == ()
    table = (Parity("step", 1e-6, 2e-6, 1e-4), Parity("half", 0.5, 0.6, 1e-4, ("y is constant",)))
    write_parity(tmp_path, table)
    assert read_parity(tmp_path) == table
