"""A poisoned engine is caught when it is built, and the set falls back to a better one and says so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import toys

from stt2v.engine import certificate
from stt2v.engine.backends import inductor, open_backend
from stt2v.engine.backends.base import Values
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.memory import HostMeter
from stt2v.engine.certificate import check_certificate, opened_backends
from stt2v.engine.errors import ExportError
from stt2v.engine.parity import read_parity
from stt2v.engine.spec import EngineSpec
from stt2v.engine.trust import admit
from stt2v.export import engine_builder, to_ort, to_trt_rtx
from stt2v.export.build import BuiltSet, build_engine_set
from stt2v.export.capture import program_from_graph
from stt2v.export.fallback import Rung, Workshop

Poison = Callable[[np.ndarray, bool], np.ndarray]
POISONS: dict[str, tuple[Poison, str]] = {
    "NaN": (lambda norm, bias: norm * np.nan if bias else norm, "context has NaN"),
    "constant": (lambda norm, bias: np.full_like(norm, 3) if bias else norm * 0, "context is constant"),
    "5 % off": (lambda norm, bias: norm * np.float16(1.05), "rel 0.05"),
}
"""What becomes of the weight and the bias of the norm that makes the output."""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))


def poisoned(poison: Poison, dtype: ir.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spoil every ONNX file with weights of `dtype` before it is written."""
    save = to_ort.save_onnx

    def spoilt(model: ir.Model, path: Path, weights: object) -> int:
        for value in model.graph.initializers.values():
            if "norm" in str(value.name) and value.const_value.dtype == dtype:
                array = poison(value.const_value.numpy(), "bias" in str(value.name))
                value.const_value = ir.tensor(array, name=value.name)
        return save(model, path, weights)

    monkeypatch.setattr(to_ort, "save_onnx", spoilt)


def build(directory: Path, backend: str = "onnxruntime", target: str = "cpu") -> BuiltSet:
    graphs = {"encoder": toys.encoder, "update": toys.update}
    return build_engine_set(toys.MODEL, graphs, backend, "fp16", target, directory)


@pytest.mark.parametrize("name", POISONS)
def test_falls_back_to_another_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    poison, words = POISONS[name]
    poisoned(poison, ir.DataType.FLOAT16, monkeypatch)
    built = build(tmp_path / "set")
    encoder, update = built.manifest.engines
    assert (encoder.precision, update.precision, built.manifest.precision) == ("fp32", "fp16", "fp16")
    row, other = read_parity(tmp_path / "set")
    assert row.passed
    assert row.limit == 1e-4
    assert other.fell_back_from == ()
    (tried,) = row.fell_back_from
    assert tried.startswith("fp16 on onnxruntime: ")
    assert words in tried
    check_certificate(tmp_path / "set", admit(tmp_path / "set"), anew=True)
    assert build(tmp_path / "set").reasons == ()  # it is current as it is


def test_nothing_to_fall_back_to_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (ir.DataType.FLOAT16, ir.DataType.FLOAT):
        poisoned(POISONS["NaN"][0], dtype, monkeypatch)
    with pytest.raises(
        ExportError, match=r"graph 'encoder': the engine differs from the fp32 module .*context has NaN"
    ):
        build(tmp_path / "set")


@pytest.mark.slow  # Inductor compiles C++
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda value: value * np.float32(np.nan), "context has NaN"),
        (np.zeros_like, "context is constant"),
        (lambda value: value * np.float32(1.05), "rel 0.05"),
    ],
    ids=list(POISONS),
)
def test_falls_back_from_inductor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    run = inductor.InductorEngine.run

    def spoilt(self: inductor.InductorEngine, inputs: Values) -> dict[str, np.ndarray]:
        return {name: spoil(np.asarray(value)) for name, value in run(self, inputs).items()}

    monkeypatch.setattr(inductor.InductorEngine, "run", spoilt)
    built = build_engine_set(toys.MODEL, {"encoder": toys.encoder}, "inductor", "fp32", "cpu", tmp_path / "set")
    (entry,), (row,) = built.manifest.engines, built.parity
    assert (entry.backend, entry.file, row.passed) == ("onnxruntime", "encoder.onnx", True)
    assert row.fell_back_from[0].startswith("fp32 on inductor: ")
    assert words in row.fell_back_from[0]
    check_certificate(tmp_path / "set", admit(tmp_path / "set"), anew=True)


class Spoilt:
    """In place of TensorRT-RTX, whose engines run on no machine of a processor alone: all its outputs are NaN."""

    name, hardware, meter = "tensorrt-rtx", "Card (sm_89)", HostMeter()

    def load(self, path: Path, spec: EngineSpec) -> FakeEngine:
        return FakeEngine(spec, lambda own, _: {t.name: np.full(t.shape, np.nan, t.dtype) for t in own.outputs})


def test_falls_back_to_another_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

    def opened(name: str, target: str) -> object:
        return Spoilt() if name == "tensorrt-rtx" else open_backend(name, target)

    monkeypatch.setattr(to_trt_rtx.TrtRtxCompiler, "runs_here", lambda self, target: True)
    monkeypatch.setattr(engine_builder, "open_backend", opened)
    monkeypatch.setattr(certificate, "open_backend", opened)
    graphs = {"update": toys.update}
    built = build_engine_set(toys.MODEL, graphs, "tensorrt-rtx", "fp16", "sm_89", tmp_path / "set")
    (entry,), (row,) = built.manifest.engines, built.parity
    assert (entry.backend, entry.target, entry.precision) == ("onnxruntime", "cpu", "fp32")
    assert built.manifest.backend == "tensorrt-rtx"
    assert [tried.partition(": ")[0] for tried in row.fell_back_from] == [
        "fp16 on tensorrt-rtx",
        "fp32 on tensorrt-rtx",
    ]
    assert row.passed
    assert not (tmp_path / "set/update.engine").exists()
    backends = opened_backends(admit(tmp_path / "set"))
    with backends[entry.backend, entry.target].load(tmp_path / "set" / entry.file, entry.spec) as engine:
        assert engine.spec == entry.spec


def test_weights_of_another_backend_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"of another")
    program = program_from_graph(toys.encoder())
    with Workshop(tmp_path) as workshop:
        compile_program = workshop.compile_for(Rung("onnxruntime", "cpu", "fp32"))
        compiled = compile_program(program)()
        assert workshop.compile_for(Rung("onnxruntime", "cpu", "fp16")) is compile_program
    assert (tmp_path / "weights.bin").read_bytes() == b"of another"
    with open_backend("onnxruntime").load(tmp_path / compiled.file, program.spec) as engine:
        assert engine.spec == program.spec


def test_rungs() -> None:
    below = [str(rung) for rung in Rung("tensorrt-rtx", "sm_89", "fp16").below()]
    assert below == ["fp32 on tensorrt-rtx", "fp32 on onnxruntime"]
    assert [*Rung("onnxruntime", "cpu", "fp32").below()] == []
