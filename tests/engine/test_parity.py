from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stt2v.engine.errors import EngineSetError, ExportError
from stt2v.engine.parity import LIMITS, Parity, compare, limit_for, read_parity, write_parity
from stt2v.engine.reference import Sample

EXPECTED = {"y": np.array([3.0, 4.0], np.float32), "z": np.array([1.0, 2.0], np.float32)}


def beside(actual: Mapping[str, Any], expected: Mapping[str, Any], precision: str) -> Parity:
    samples = {name: Sample.of(value) for name, value in expected.items()}
    return compare("step", actual, samples, LIMITS[precision])


def test_rel_is_the_worst_output() -> None:
    actual = {"y": np.array([3.0, 4.5]), "z": EXPECTED["z"]}
    parity = beside(actual, EXPECTED, "fp8")
    assert parity.rel == pytest.approx(0.5 / 5)
    assert parity.largest == pytest.approx(0.5 / 4)
    assert parity.limit == 0.1
    assert parity.passed


@pytest.mark.parametrize(
    ("value", "problem"),
    [([np.nan, 4], "y has NaN"), ([np.inf, 4], "y has infinities"), ([3.5, 3.5], "y is constant")],
)
def test_problems_are_named(value: list[float], problem: str) -> None:
    parity = beside({**EXPECTED, "y": np.array(value)}, EXPECTED, "fp8")
    assert problem in parity.problems
    with pytest.raises(ExportError, match=f"'step'.*{problem}.*limit 0.1"):
        parity.check()


def test_five_percent_off_fails_half_precision() -> None:
    parity = beside({name: value * 1.05 for name, value in EXPECTED.items()}, EXPECTED, "fp16")
    with pytest.raises(ExportError, match=r"rel 0\.05"):
        parity.check()


def test_zero_reference_needs_zero() -> None:
    zero = {"y": np.zeros(3)}
    assert beside(zero, zero, "fp32").rel == 0
    assert not beside({"y": np.array([0, 1e-9, 0])}, zero, "fp32").passed


def test_other_shape_is_refused() -> None:
    with pytest.raises(ExportError, match=r"'y' has shape \[3\]"):
        beside({**EXPECTED, "y": np.zeros(3)}, EXPECTED, "fp32")


def test_what_lies_between_the_kept_values_shows_in_the_norm() -> None:
    whole = np.random.default_rng(0).standard_normal((4, 250, 300)).astype(np.float32)
    sample = {"y": Sample.of(whole)}
    assert sample["y"].values.shape == (4096,)
    assert compare("step", {"y": whole}, sample, 1e-4).rel < 1e-6
    assert compare("step", {"y": whole * 1.05}, sample, 1e-4).rel == pytest.approx(0.05, rel=1e-3)
    spoilt = whole.copy()
    spoilt[2, :40, :40] = 0  # about as many values as are kept, all in one corner
    assert compare("step", {"y": spoilt}, sample, 5e-3).rel > 5e-3
    spoilt[2, 0, 0] = np.nan
    assert "y has NaN" in compare("step", {"y": spoilt}, sample, 0.1).problems


def test_limit_allows_for_the_reference() -> None:
    assert limit_for("fp32", "fp32") == 1e-4
    assert limit_for("fp32", "fp16 with fp32 norms") == 5e-3
    assert limit_for("fp8", "fp16 with fp32 norms") == 0.1


def test_table_round_trip(tmp_path: Path) -> None:
    assert read_parity(tmp_path) == ()
    table = (
        Parity("step", 1e-6, 2e-6, 1e-4, milliseconds=3.5, fell_back_from=("fp16: rel 0.05",)),
        Parity("half", np.inf, np.inf, 1e-4, ("y is constant",)),
    )
    write_parity(tmp_path, table)
    assert read_parity(tmp_path) == table
    assert "Infinity" not in (tmp_path / "parity.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["parity.json"]


@pytest.mark.parametrize("text", ["", '[{"graph": "step"}]', "[3]"])
def test_damaged_table_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "parity.json").write_text(text)
    with pytest.raises(EngineSetError, match=r"parity\.json: is no certificate"):
        read_parity(tmp_path)
