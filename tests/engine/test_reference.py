"""References are kept in little space and give the same inputs again."""

from pathlib import Path

import numpy as np
import pytest

from stt2v.engine import reference
from stt2v.engine.errors import EngineSetError
from stt2v.engine.reference import Reference, Sample, drawn_input, read_reference, reference_file, write_reference
from stt2v.engine.spec import EngineSpec, TensorSpec

SPEC = EngineSpec(
    "step",
    (
        TensorSpec("x", "float32", (3, 40, 50)),
        TensorSpec("tokens", "int64", (2, 5000)),
        TensorSpec("coefficients", "float32", (8,)),
        TensorSpec("scale", "float16", ()),
    ),
    (TensorSpec("y", "float32", (3, 40, 50)),),
)
TOKENS = np.arange(10000).reshape(2, 5000)


@pytest.fixture
def kept(tmp_path: Path) -> Reference:
    inputs = {t.name: drawn_input(t, 7) for t in SPEC.inputs} | {"tokens": TOKENS}
    made = Reference.of(inputs, {"y": inputs["x"] * 2}, 7, "fp32")
    write_reference(tmp_path, "step", made)
    return made


def test_round_trip(tmp_path: Path, kept: Reference) -> None:
    read = read_reference(tmp_path, "step")
    assert read is not None
    assert (read.made_in, read.seed) == ("fp32", 7)
    for name, array in read.inputs(SPEC).items():
        np.testing.assert_array_equal(array, kept.inputs(SPEC)[name])
        assert (array.dtype, array.shape) == (SPEC_OF[name].dtype, SPEC_OF[name].shape)
    assert set(read.probes) == {"x"}  # integers mean something, and small inputs cost nothing
    np.testing.assert_array_equal(read.outputs["y"].values, kept.outputs["y"].values)
    assert read.outputs["y"].norm == kept.outputs["y"].norm == pytest.approx(2 * np.linalg.norm(read.inputs(SPEC)["x"]))
    assert reference_file(tmp_path, "step").stat().st_size < 130_000


SPEC_OF = {tensor.name: tensor for tensor in SPEC.inputs}


def test_inputs_differ_by_name_and_seed() -> None:
    x, other = TensorSpec("x", "float32", (9,)), TensorSpec("context", "float32", (9,))
    np.testing.assert_array_equal(drawn_input(x, 1), drawn_input(x, 1))
    assert not np.array_equal(drawn_input(x, 1), drawn_input(x, 2))
    assert not np.array_equal(drawn_input(x, 1), drawn_input(other, 1))


def test_other_numbers_of_another_numpy_are_noticed(kept: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "drawn_input", lambda tensor, seed: drawn_input(tensor, seed + 1))
    with pytest.raises(EngineSetError, match=r"engine 'step': NumPy .* draws other test inputs"):
        kept.inputs(SPEC)


def test_none_and_a_damaged_one(tmp_path: Path, kept: Reference) -> None:
    assert read_reference(tmp_path, "half") is None
    reference_file(tmp_path, "step").write_bytes(b"?")
    with pytest.raises(EngineSetError, match=r"step\.reference\.safetensors: is no reference of an engine"):
        read_reference(tmp_path, "step")


def test_sample_of_a_small_output_is_all_of_it() -> None:
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    sample = Sample.of(values)
    np.testing.assert_array_equal(sample.values, values.ravel())
    assert (sample.shape, sample.constant, Sample.of(np.ones(5)).constant) == ((2, 3), False, True)
