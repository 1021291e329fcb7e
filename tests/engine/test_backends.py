import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from stt2v.engine.backends import open_backend, ort, runs_here
from stt2v.engine.backends.fake import FakeBackend, FakeEngine
from stt2v.engine.errors import BackendError, OutOfMemoryError, UsageError
from stt2v.engine.spec import EngineSpec, TensorSpec

SHAPE = (2, 3)
SPEC = EngineSpec(
    "scale",
    (TensorSpec("x", "float32", SHAPE), TensorSpec("factor", "float32", ())),
    (TensorSpec("y", "float32", SHAPE),),
)
X = np.arange(6, dtype=np.float32).reshape(SHAPE)


@pytest.fixture
def scale(tmp_path: Path) -> Path:
    """An ONNX file: y = x * factor."""
    x, factor = (ir.val(tensor.name, ir.DataType.FLOAT, tensor.shape) for tensor in SPEC.inputs)
    node = ir.node("Mul", [x, factor])
    node.outputs[0].name = "y"
    node.outputs[0].dtype, node.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(SHAPE)
    graph = ir.Graph([x, factor], node.outputs, nodes=[node], opset_imports={"": 23}, name="scale")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "scale.onnx")
    return tmp_path / "scale.onnx"


def engines(scale: Path) -> list[ort.HostEngine]:
    """The engine on host arrays, and the one on device values with the CPU as its device."""
    host = open_backend("onnxruntime").load(scale, SPEC)
    session = ort.runtime().InferenceSession(scale, ort.session_options(), providers=["CPUExecutionProvider"])
    return [host, ort.DeviceEngine(session, SPEC, "cpu")]


@pytest.mark.parametrize("number", [0, 1], ids=["host", "device"])
def test_onnxruntime_runs_and_never_overwrites(scale: Path, number: int) -> None:
    with engines(scale)[number] as engine:
        first = engine.run({"factor": np.float64(2), "x": X.astype(np.float64)})["y"]
        second = engine.run({"factor": np.float32(3), "x": first})["y"]
        assert first.shape == second.shape == SHAPE
        np.testing.assert_array_equal(np.asarray(first), 2 * X)
        np.testing.assert_array_equal(np.asarray(second), 6 * X)
        assert np.asarray(second).dtype == np.float32


@pytest.mark.parametrize("number", [0, 1], ids=["host", "device"])
def test_wrong_inputs_and_closed_engines_are_refused(scale: Path, number: int) -> None:
    engine = engines(scale)[number]
    with pytest.raises(BackendError, match=r"shape \[3, 2\], it was compiled for \[2, 3\]"):
        engine.run({"x": X.T, "factor": np.float32(1)})
    with pytest.raises(BackendError, match="missing: \\['factor'\\]"):
        engine.run({"x": X})
    engine.close()
    with pytest.raises(BackendError, match="'scale' is closed"):
        engine.run({"x": X, "factor": np.float32(1)})


def test_damaged_file_is_a_backend_error(scale: Path) -> None:
    scale.write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"scale\.onnx: onnxruntime failed") as caught:
        open_backend("onnxruntime").load(scale, SPEC)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_every_exception_of_onnxruntime_is_translated() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    foreign = [cls for cls in vars(state).values() if isinstance(cls, type) and issubclass(cls, Exception)]
    assert state.Fail in foreign
    for error in foreign:
        with pytest.raises(BackendError, match="engine 'x': onnxruntime failed"), ort.translated("engine 'x'"):
            raise error("bad\nluck")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Failed to allocate memory for requested buffer")])
def test_lack_of_memory_is_told_apart(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="engine 'x': memory ran out"), ort.translated("engine 'x'"):
        raise error


@pytest.mark.parametrize(
    ("installed", "advice"),
    [((), r"pip install 'stt2v\[cpu\]'"), (("onnxruntime", "onnxruntime-gpu"), "both installed.*pip uninstall both")],
)
def test_none_or_both_distributions_are_explained(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], advice: str
) -> None:
    monkeypatch.setattr(ort, "installed", lambda name: "1.0" if name in installed else None)
    ort.runtime.cache_clear()
    with pytest.raises(BackendError, match=advice):
        open_backend("onnxruntime")


def test_nothing_is_sent_to_the_makers_of_onnxruntime(tmp_path: Path) -> None:
    script = "from stt2v.engine.backends.ort import runtime; runtime().SessionOptions()"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", script], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert not list(tmp_path.rglob("deviceid"))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UsageError, match=r"'onyx' is not known; choose one of .*onnxruntime"):
        open_backend("onyx")
    with pytest.raises(UsageError, match=r"'tpu' is not known.*cpu, cuda"):
        open_backend("onnxruntime", "tpu")


def test_inductor_is_not_there_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_here("inductor")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"'inductor' needs 'torch', .* pip install 'stt2v\[export\]'"):
        open_backend("inductor")


def test_absent_cuda_provider_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort.runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider.*stt2v\[gpu\]"):
        open_backend("onnxruntime", "cuda")
    assert not runs_here("onnxruntime", "cuda")
    assert runs_here("onnxruntime", "cpu")


def test_library_that_does_not_load_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def runtime() -> None:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(ort, "runtime", runtime)
    assert not runs_here("onnxruntime", "cpu")


def test_nobody_can_choose_the_fake() -> None:
    with pytest.raises(UsageError, match="'fake' is not known"):
        open_backend("fake")


def test_fake_engine_depends_on_every_input_and_repeats() -> None:
    engine = FakeBackend().load(Path("nowhere"), SPEC)
    base = {"x": X, "factor": np.float32(0.3)}
    once, again = engine.run(base)["y"], engine.run(base)["y"]
    np.testing.assert_array_equal(once, again)
    assert np.asarray(once).dtype == np.float32
    for change in ({"x": X + 1}, {"factor": np.float32(0.4)}):
        assert not np.array_equal(engine.run({**base, **change})["y"], once)


def test_fake_engine_runs_a_function() -> None:
    engine = FakeEngine(SPEC, lambda spec, inputs: {"y": inputs["x"] * inputs["factor"]})
    np.testing.assert_array_equal(engine.run({"x": X, "factor": np.float32(2)})["y"], 2 * X)
    engine.close()
    with pytest.raises(BackendError, match="'scale' is closed"):
        engine.run({"x": X, "factor": np.float32(2)})
