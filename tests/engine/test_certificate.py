"""Engines are run once on the machine that they are on, and those that compute wrongly there make no video."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from stt2v.engine.backends import open_backend
from stt2v.engine.backends.cuda import Device
from stt2v.engine.backends.fake import FakeBackend, FakeEngine
from stt2v.engine.backends.fake_cuda import CudaError, FakeCuda
from stt2v.engine.backends.fake_tensorrt import FakeTensorRt, plan_of
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.backends.memory import DeviceMeter, HostMeter
from stt2v.engine.backends.tensorrt import TensorRtBackend
from stt2v.engine.certificate import certify, check_certificate, make_certificate
from stt2v.engine.errors import BackendError, EngineSetError, ParityError
from stt2v.engine.manifest import MANIFEST, PARITY, EngineEntry, Manifest, file_entries, write_manifest
from stt2v.engine.models import find_model
from stt2v.engine.parity import Parity, read_parity, write_parity
from stt2v.engine.progress import Silent
from stt2v.engine.reference import Reference, write_reference
from stt2v.engine.seal import check_seal, seal
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.stages.denoise import FusedStep, HalvedStep, guided_step
from stt2v.engine.store import SHIPPED, built_set

SHAPE = (100, 90)
SPEC = EngineSpec("scale", (TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))
POISONS = {
    "NaN": (np.nan, "y has NaN"),
    "infinity": (np.inf, "y has infinities"),
    "constant": (0.0, "y is constant"),
    "5 % off": (2.1, "rel 0.05"),
}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))


def write_engine(path: Path, factor: float) -> None:
    """An ONNX file: y = x * factor, which ought to be 2."""
    x = ir.val("x", ir.DataType.FLOAT, SHAPE)
    constant = ir.node("Constant", [], {"value_float": factor})
    product = ir.node("Mul", [x, constant.outputs[0]])
    product.outputs[0].name, product.outputs[0].dtype = "y", ir.DataType.FLOAT
    product.outputs[0].shape = ir.Shape(SHAPE)
    graph = ir.Graph([x], product.outputs, nodes=[constant, product], opset_imports={"": 23}, name="scale")
    ir.save(ir.Model(graph, ir_version=10), path)


def reference() -> Reference:
    inputs = {"x": Reference("fp32", 3, {}, {}, {}).inputs(SPEC)["x"]}
    return Reference.of(inputs, {"y": inputs["x"] * 2}, 3, "fp32")


def engine_set(directory: Path, factor: float = 2.0) -> Manifest:
    """A sealed set of one engine, without a certificate."""
    directory.mkdir()
    write_engine(directory / "scale.onnx", factor)
    write_reference(directory, "scale", reference())
    entry = EngineEntry(SPEC, "scale.onnx", "onnxruntime", "cpu", "fp16", "g", "w", 0, 0, 1.0)
    names = [path.name for path in directory.iterdir()]
    manifest = Manifest("1", {}, "onnxruntime", "cpu", "fp16", {}, (entry,), file_entries(directory, names))
    write_manifest(directory, manifest)
    seal(directory, MANIFEST)
    return manifest


@pytest.mark.parametrize(
    ("seconds", "runs", "milliseconds"),
    [((2.0, 0.4, 0.3), 3, 300.0), ((6.0, 0.4, 0.3), 2, 400.0), ((31.0, 0.4, 0.3), 1, 31000.0)],
    ids=["quick", "loads kernels", "slow"],
)
def test_an_engine_is_timed_again_where_that_does_not_take_long(
    seconds: tuple[float, ...], runs: int, milliseconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, now = [*seconds], [0.0]

    def doubled(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
        now[0] += left.pop(0)
        return {"y": inputs["x"] * 2}

    backend, entry = FakeBackend(), EngineEntry(SPEC, "", "fake", "cpu", "fp32", "g", "w", 0, 0, 1.0)
    monkeypatch.setattr(backend, "load", lambda path, spec: FakeEngine(spec, doubled), raising=False)
    monkeypatch.setattr("stt2v.engine.certificate.time.perf_counter", lambda: now[0])
    row = certify(backend, Path(), entry, reference())
    assert (row.passed, row.milliseconds, len(seconds) - len(left)) == (True, milliseconds, runs)


def test_good_engine_gets_its_certificate_once(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    check_certificate(tmp_path / "set", manifest)
    check_seal(tmp_path / "set", PARITY)
    (row,) = read_parity(tmp_path / "set")
    assert row.passed
    assert row.rel < 1e-6
    assert (row.graph, row.limit, row.reference, row.hardware) == ("scale", 5e-3, "fp32", "cpu")
    assert row.milliseconds > 0
    before = (tmp_path / "set" / PARITY).stat().st_mtime_ns
    check_certificate(tmp_path / "set", manifest)
    assert (tmp_path / "set" / PARITY).stat().st_mtime_ns == before
    check_certificate(tmp_path / "set", manifest, anew=True)
    assert (tmp_path / "set" / PARITY).stat().st_mtime_ns > before


@pytest.mark.parametrize("poison", POISONS)
def test_poisoned_engine_is_caught_and_stays_caught(tmp_path: Path, poison: str) -> None:
    factor, words = POISONS[poison]
    manifest = engine_set(tmp_path / "set", factor)
    for _ in range(2):
        with pytest.raises(ParityError, match=rf"computes wrongly on this machine: scale \(.*{words}.*build-engines"):
            check_certificate(tmp_path / "set", manifest)
    (row,) = read_parity(tmp_path / "set")
    assert not row.passed


def test_engine_that_does_not_run_has_a_row(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    (tmp_path / "set/scale.onnx").write_bytes(b"?")
    (row,) = make_certificate(tmp_path / "set", manifest)
    assert not row.passed
    assert "does not run: " in row.found
    assert read_parity(tmp_path / "set") == (row,)


def test_certificate_of_another_card_does_not_count(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    text = tmp_path / "set" / PARITY
    make_certificate(tmp_path / "set", manifest)
    text.write_text(text.read_text().replace('"hardware": "cpu"', '"hardware": "NVIDIA Card (sm_89)"'))
    check_certificate(tmp_path / "set", manifest)
    assert read_parity(tmp_path / "set")[0].hardware == "cpu"


def test_what_an_engine_fell_back_from_is_not_forgotten(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    (row,) = make_certificate(tmp_path / "set", manifest)
    write_parity(tmp_path / "set", [replace(row, fell_back_from=("fp8 on inductor: y has NaN",))])
    assert make_certificate(tmp_path / "set", manifest)[0].fell_back_from == ("fp8 on inductor: y has NaN",)


def test_fused_step_that_does_not_fit_is_done_by_halves(tmp_path: Path) -> None:
    small = built_set(find_model("tiny"), "onnxruntime", "cpu", "fp32")
    shutil.copytree(SHIPPED / "tiny", small)
    seal(small, MANIFEST)
    rows = {row.graph: row for row in read_parity(small)}
    too_large = {"rel": np.inf, "problems": ("does not run: memory ran out",), "fits": False}

    def note(**changes: Parity) -> None:
        write_parity(small, (rows | changes).values())
        seal(small, PARITY)

    note(step=replace(rows["step"], **too_large))
    with Session.open("tiny") as session:
        assert session.engines.directory == small
        assert isinstance(guided_step(session._usable).step, HalvedStep)
        assert isinstance(guided_step(session._usable, "first_step").step, FusedStep)
    note(step=replace(rows["step"], **too_large), half=replace(rows["half"], **too_large))
    with pytest.raises(ParityError, match=r"step \(rel inf, does not run: memory ran out.*half \(rel inf"):
        Session.open("tiny", small)


def test_lack_of_memory_is_told_apart(tmp_path: Path) -> None:
    api = FakeCuda()
    rtx = TensorRtBackend("tensorrt-rtx", FakeTensorRt(api), Device(api))
    (tmp_path / "scale.engine").write_bytes(plan_of(SPEC))
    entry = EngineEntry(SPEC, "scale.engine", "tensorrt-rtx", "sm_89", "fp16", "g", "w", 0, 0, 1.0)
    for status, fits in ((CudaError.cudaErrorMemoryAllocation, False), (CudaError.cudaErrorInvalidValue, True)):
        api.failures["cudaMalloc"] = status
        row = certify(rtx, tmp_path / "scale.engine", entry, reference())
        assert (row.passed, row.fits) == (False, fits)


def test_set_that_computes_wrongly_makes_way_for_the_next(tmp_path: Path) -> None:
    wrong = built_set(find_model("tiny"), "onnxruntime", "cpu", "fp32")
    shutil.copytree(SHIPPED / "tiny", wrong)
    seal(wrong, MANIFEST)
    rows = read_parity(wrong)
    write_parity(wrong, [replace(rows[0], problems=("embedding has NaN",)), *rows[1:]])
    seal(wrong, PARITY)
    told = Notes()
    with Session.open("tiny", progress=told) as session:
        assert session.engines.directory == SHIPPED / "tiny"
    (note,) = told.notes
    assert "computes wrongly on this machine: image_encoder (rel" in note
    assert "embedding has NaN" in note
    assert note.endswith("falls back to another set")
    with pytest.raises(ParityError, match="image_encoder"):
        Session.open("tiny", wrong)


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)


def test_no_reference_is_refused(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    (tmp_path / "set/scale.reference.safetensors").unlink()
    with pytest.raises(EngineSetError, match="no reference to check engine 'scale' by; run `stt2v build-engines`"):
        check_certificate(tmp_path / "set", manifest)


@pytest.mark.parametrize(("value", "words"), [(None, ""), (np.nan, "y has NaN"), (1.0, "y is constant")])
def test_certificate_on_a_card(tmp_path: Path, value: float | None, words: str) -> None:
    """As on the machine of a user: an engine that was built ahead of time, its memory measured on the card."""

    def computed(spec: EngineSpec, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": inputs["x"] * 2 if value is None else np.full_like(inputs["x"], value)}

    api = FakeCuda()
    rtx = TensorRtBackend("tensorrt-rtx", FakeTensorRt(api, function=computed), Device(api))
    (tmp_path / "scale.engine").write_bytes(plan_of(SPEC, scratch=1 << 16))
    entry = EngineEntry(SPEC, "scale.engine", "tensorrt-rtx", "sm_89", "fp16", "g", "w", 0, 0, 1.0)
    row = certify(rtx, tmp_path / "scale.engine", entry, reference())
    assert row.passed == (value is None)
    assert words in row.found
    assert row.hardware == "Stand-in (sm_89)"
    assert row.load_bytes == 2 * 4 * 100 * 90  # an input and an output
    assert row.run_bytes >= (1 << 16) + 4 * 100 * 90  # the scratch, and the output that is given
    assert api.held == 0


def test_host_meter_sees_what_is_kept_and_what_is_not() -> None:
    with HostMeter().measured() as cost:
        kept = np.ones(1 << 23)
        dropped = np.ones(1 << 23)
        del dropped
    assert 0.9 * kept.nbytes < cost.held < 1.5 * kept.nbytes
    assert 1.8 * kept.nbytes < cost.peak < 3 * kept.nbytes


def test_device_meter() -> None:
    free = iter([100, 40])
    with DeviceMeter(lambda: next(free)).measured() as cost:
        pass
    assert (cost.held, cost.peak) == (60, 60)


def test_backend_that_is_not_here(tmp_path: Path) -> None:
    manifest = engine_set(tmp_path / "set")
    (entry,) = manifest.engines
    elsewhere = replace(manifest, engines=(replace(entry, backend="tensorrt-rtx", target="sm_01"),))
    with pytest.raises(BackendError):
        check_certificate(tmp_path / "set", elsewhere)
    assert open_backend("onnxruntime").hardware == "cpu"
