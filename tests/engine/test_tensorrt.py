"""TensorRT and TensorRT-RTX at run time, on stand-ins for the libraries and CUDA, whose names the real ones have."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from stt2v.engine.backends import cuda, fake_cuda, fake_tensorrt, open_backend, runtime_cache, tensorrt, why_not
from stt2v.engine.backends.fake import FakeBackend, FakeEngine
from stt2v.engine.backends.fake_cuda import CudaError, FakeCuda
from stt2v.engine.backends.fake_tensorrt import FakeTensorRt, plan_of
from stt2v.engine.backends.tensorrt import RTX_ONLY, TensorRtBackend, TensorRtEngine
from stt2v.engine.errors import BackendError, OutOfMemoryError
from stt2v.engine.models import find_model
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.store import SHIPPED

SHAPE = (2, 3)
SPEC = EngineSpec(
    "step",
    (TensorSpec("x", "float32", SHAPE), TensorSpec("tokens", "int64", (4,))),
    (TensorSpec("y", "float32", SHAPE), TensorSpec("z", "float16", (5,))),
)
INPUTS = {"x": np.arange(6, dtype=np.float32).reshape(SHAPE) / 6, "tokens": np.array([1, 0, 2, 1])}
EXPECTED = FakeEngine(SPEC).run(INPUTS)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def api() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "step.engine"
    path.write_bytes(plan_of(SPEC))
    return path


def backend(api: FakeCuda, rtx: bool = True, weight_bytes: int | None = None) -> TensorRtBackend:
    name = "tensorrt-rtx" if rtx else "tensorrt"
    return TensorRtBackend(name, FakeTensorRt(api, rtx), cuda.Device(api), weight_bytes)


def load(path: Path, api: FakeCuda, rtx: bool = True) -> TensorRtEngine:
    return backend(api, rtx).load(path, SPEC)


@pytest.mark.parametrize("rtx", [True, False], ids=["tensorrt-rtx", "tensorrt"])
def test_runs_and_never_overwrites(plan: Path, api: FakeCuda, rtx: bool) -> None:
    with load(plan, api, rtx) as engine:
        results = [engine.run({**INPUTS, "x": INPUTS["x"] * k})["y"] for k in (1, 2, 3)]
        for k, y in zip((1, 2, 3), results, strict=True):
            np.testing.assert_array_equal(np.asarray(y), FakeEngine(SPEC).run({**INPUTS, "x": INPUTS["x"] * k})["y"])
        assert results[0].shape == SHAPE
        assert np.asarray(engine.run(INPUTS)["z"]).dtype == np.float16
    assert api.held == 0


def test_first_run_is_piecewise_then_one_graph_is_replayed(plan: Path, api: FakeCuda) -> None:
    with load(plan, api) as engine:
        api.calls.clear()
        for _ in range(3):
            engine.run(INPUTS)
    order = [call for call in api.calls if "Graph" in call or "execute" in call or "Capture" in call]
    assert order == [
        "execute_async_v3",
        *("cudaStreamBeginCapture", "execute_async_v3", "cudaStreamEndCapture"),
        *("cudaGraphInstantiate", "cudaGraphDestroy", "cudaGraphLaunch"),
        "cudaGraphLaunch",
        "cudaGraphExecDestroy",
    ]


def test_order_of_a_run(plan: Path, api: FakeCuda) -> None:
    with load(plan, api) as engine:
        engine.run(INPUTS)
        api.calls.clear()
        value = engine.run(INPUTS)["y"]
        assert [call for call in api.calls if "Memcpy" in call or "Launch" in call or "Synchronize" in call] == [
            *("cudaMemcpyAsync HostToDevice", "cudaMemcpyAsync HostToDevice", "cudaGraphLaunch"),
            *("cudaMemcpyAsync DeviceToDevice", "cudaMemcpyAsync DeviceToDevice", "cudaStreamSynchronize"),
        ]
        api.calls.clear()
        engine.run({**INPUTS, "x": value})
        assert api.calls.count("cudaMemcpyAsync DeviceToDevice") == 3  # it does not leave the card
        api.calls.clear()
        np.asarray(value)
        assert api.calls == ["cudaMemcpyAsync DeviceToHost", "cudaStreamSynchronize"]


def test_scratch_is_shared_and_graphs_follow_it(tmp_path: Path, api: FakeCuda) -> None:
    paths = [tmp_path / f"{size}.engine" for size in (1 << 10, 1 << 20)]
    for path in paths:
        path.write_bytes(plan_of(SPEC, scratch=int(path.stem)))
    shared = backend(api)
    small, large = (shared.load(path, SPEC) for path in paths)
    for engine in (small, small, large, small, small, large):  # the fake fails in memory that was given back
        np.testing.assert_array_equal(np.asarray(engine.run(INPUTS)["y"]), EXPECTED["y"])
    assert sorted(len(block) for block in api.device.values())[-1] == 1 << 20
    assert sum(len(block) >= 1 << 10 for block in api.device.values()) == 1
    small.close()
    large.run(INPUTS)
    large.close()
    assert api.held == 0


@pytest.mark.parametrize("failure", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_captured_runs_all_the_same(plan: Path, api: FakeCuda, failure: str) -> None:
    with load(plan, api) as engine:
        engine.run(INPUTS)
        api.failures[failure] = CudaError.cudaErrorStreamCaptureUnsupported
        np.testing.assert_array_equal(np.asarray(engine.run(INPUTS)["y"]), EXPECTED["y"])
    assert api.held == 0


def test_rtx_is_asked_before_a_capture(plan: Path, api: FakeCuda) -> None:
    opened = backend(api)
    opened.library.capturable = False
    with opened.load(plan, SPEC) as engine:
        for _ in range(3):
            engine.run(INPUTS)
    assert "cudaStreamBeginCapture" not in api.calls


def test_outputs_go_with_their_last_name_or_with_the_engine(plan: Path, api: FakeCuda) -> None:
    engine = load(plan, api)
    held = api.held
    outputs = engine.run(INPUTS)
    kept = outputs["y"]
    assert api.held == held + 5  # two outputs; the scratch, the staging and the stream are first needed here
    del outputs
    assert api.held == held + 4
    engine.close()
    engine.close()
    assert api.held == 0
    with pytest.raises(BackendError, match="read after its engine was closed"):
        np.asarray(kept)
    with pytest.raises(BackendError, match="'step' is closed"):
        engine.run(INPUTS)


@pytest.mark.parametrize(
    ("function", "status", "kind", "words"),
    [
        ("cudaMalloc", CudaError.cudaErrorMemoryAllocation, OutOfMemoryError, "GPU memory ran out"),
        ("cudaMallocHost", CudaError.cudaErrorMemoryAllocation, OutOfMemoryError, "GPU memory ran out"),
        ("cudaStreamSynchronize", CudaError.cudaErrorIllegalAddress, BackendError, "cudaErrorIllegalAddress (700)"),
        ("cudaMemcpyAsync", CudaError.cudaErrorInvalidValue, BackendError, "cudaMemcpyAsync: cudaErrorInvalidValue"),
        ("execute_async_v3", CudaError.cudaErrorInvalidValue, BackendError, "enqueueV3: it cannot be"),
    ],
)
def test_failures_of_a_run(
    plan: Path, api: FakeCuda, function: str, status: CudaError, kind: type[BackendError], words: str
) -> None:
    with load(plan, api) as engine:
        api.failures[function] = status
        with pytest.raises(kind) as caught:
            engine.run(INPUTS)
        assert str(caught.value).startswith("engine 'step': ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(np.asarray(engine.run(INPUTS)["y"]), EXPECTED["y"])  # and goes on
    assert api.held == 0


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("cudaMalloc", OutOfMemoryError, "step.engine: cannot be loaded: GPU memory ran out"),
        ("create_execution_context", OutOfMemoryError, "defaultAllocator.cpp. Out of memory"),
    ],
)
def test_failures_of_loading_leave_nothing(
    plan: Path, api: FakeCuda, function: str, kind: type[BackendError], words: str
) -> None:
    api.failures[function] = CudaError.cudaErrorMemoryAllocation
    with pytest.raises(kind, match=words):
        load(plan, api)
    assert api.held == 0


def test_damaged_engine_is_told_in_the_library_s_words(plan: Path, api: FakeCuda) -> None:
    plan.write_bytes(b"no plan")
    with pytest.raises(BackendError, match=r"step\.engine: cannot be loaded: .* \(.*magic tag does not match\)"):
        load(plan, api)


def test_border_is_compared(plan: Path, api: FakeCuda) -> None:
    other = EngineSpec("step", (TensorSpec("x", "float32", (9, 9)), SPEC.inputs[1]), SPEC.outputs)
    with pytest.raises(BackendError, match=r"tensors \['x'\] are not as the manifest says"):
        backend(api).load(plan, other)


def test_wrong_inputs_are_refused(plan: Path, api: FakeCuda) -> None:
    with load(plan, api) as engine, pytest.raises(BackendError, match=r"shape \[3, 2\], it was compiled for \[2, 3\]"):
        engine.run({**INPUTS, "x": INPUTS["x"].T})


@pytest.mark.parametrize(
    ("given", "free", "budget"),
    [(None, 1 << 30, 1000), (None, 999, 500), (300, 1 << 30, 300), (5000, 1 << 30, 1000)],
    ids=["fits", "does not fit", "given", "more than there is"],
)
def test_budget_of_streamed_weights(tmp_path: Path, given: int | None, free: int, budget: int) -> None:
    api = FakeCuda(free=free)
    path = tmp_path / "step.engine"
    path.write_bytes(plan_of(SPEC, streamable=1000))
    with backend(api, weight_bytes=given).load(path, SPEC) as engine:
        assert engine._engine.weight_streaming_budget_v2 == budget


def test_kernels_of_a_card_are_kept(plan: Path, api: FakeCuda, store: Path) -> None:
    with load(plan, api) as engine:
        engine.run(INPUTS)
    (kept,) = (store / "runtime-cache").iterdir()
    assert kept.parent.stat().st_mode & 0o077 == 0
    with load(plan, api) as engine:
        assert engine._cache.kernels == b"kernels"
    runtime_cache.write_cache(plan, b"of another card")
    with load(plan, api) as engine:
        assert engine._cache.kernels == b""
        engine.run(INPUTS)
    assert runtime_cache.read_cache(plan) == b"kernels"


def test_kernels_that_this_user_did_not_keep_are_left_alone(plan: Path, store: Path) -> None:
    runtime_cache.write_cache(plan, b"kernels")
    (kept,) = (store / "runtime-cache").iterdir()
    assert runtime_cache.read_cache(plan) == b"kernels"
    kept.write_bytes(kept.read_bytes() + b"?")
    assert runtime_cache.read_cache(plan) == b""


def test_a_store_that_cannot_be_written_is_no_error(plan: Path, api: FakeCuda, store: Path) -> None:
    store.write_bytes(b"")
    with load(plan, api) as engine:
        engine.run(INPUTS)


def test_a_whole_video_has_the_frames_of_the_fake_backend(tmp_path: Path, api: FakeCuda) -> None:
    with Session.open("tiny") as shipped:
        entries, tokenizers = shipped.engines.manifest.engines, shipped.tokenizers
    rtx = backend(api)

    def engines(load: Callable[[Path, EngineSpec], FakeEngine | TensorRtEngine]) -> dict[str, object]:
        made = {}
        for entry in entries:
            path = tmp_path / f"{entry.spec.name}.engine"
            path.write_bytes(plan_of(entry.spec))
            made[entry.spec.name] = load(path, entry.spec)
        return made

    request = Request(image=SHIPPED.parents[1] / "tests/data/landscape.jpg", num_frames=60)
    on_card = engines(rtx.load)
    results = [
        np.concatenate([c.frames for c in Session(find_model("tiny"), made, tokenizers).generate(request)])
        for made in (engines(FakeBackend().load), on_card)
    ]
    assert results[0].shape[0] == 60
    np.testing.assert_array_equal(*results)
    for engine in on_card.values():
        engine.close()
    assert api.held == 0


# What this machine says


def test_no_driver_is_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeCuda()
    monkeypatch.setattr(tensorrt, "cuda_runtime", lambda: api)
    for status in (CudaError.cudaErrorInsufficientDriver, CudaError.cudaErrorNoDevice):
        api.failures["cudaGetDeviceCount"] = status
        assert "no CUDA driver and card that can be used" in (why_not("tensorrt-rtx", "sm_89") or "")


@pytest.mark.parametrize(
    ("capability", "target", "words"),
    [
        ((9, 0), "sm_89", "cannot use this card, sm_90, it knows sm_86, sm_89, sm_120"),
        (
            (8, 6),
            "sm_89+sm_120",
            "the engines are for sm_89.sm_120, the card is sm_86; build a set with `--target sm_86",
        ),
        ((8, 9), "sm_86+sm_89", None),
        ((12, 0), None, None),
    ],
)
def test_cards(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], target: str | None, words: str | None
) -> None:
    api = FakeCuda(capability)
    monkeypatch.setattr(tensorrt, "cuda_runtime", lambda: api)
    monkeypatch.setattr(tensorrt, "_library", lambda name, beside: FakeTensorRt(api))
    if words is None:
        assert why_not("tensorrt-rtx", target) is None
    else:
        with pytest.raises(BackendError, match=words):
            open_backend("tensorrt-rtx", target)


def test_two_libraries_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "cuda_runtime", FakeCuda)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", sys)
    assert "tensorrt crashes beside tensorrt_rtx" in (why_not("tensorrt", "sm_89") or "")


def test_missing_library_is_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "cuda_runtime", FakeCuda)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    assert why_not("tensorrt", "sm_89") == (
        "backend 'tensorrt' needs 'tensorrt', which is not installed; pip install 'stt2v[tensorrt]'"
    )


# The names of the real libraries

CLASSES = {
    "Runtime": fake_tensorrt.Runtime,
    "ICudaEngine": fake_tensorrt.ICudaEngine,
    "IExecutionContext": fake_tensorrt.RtxExecutionContext,
    "IRuntimeConfig": fake_tensorrt.RtxRuntimeConfig,
    "IRuntimeCache": fake_tensorrt.Cache,
    "ILogger": fake_tensorrt.ILogger,
    "TensorIOMode": fake_tensorrt.Mode,
    "TensorLocation": fake_tensorrt.Location,
    "ExecutionContextAllocationStrategy": fake_tensorrt.Strategy,
    "DataType": fake_tensorrt.DataType,
    "ComputeCapability": fake_tensorrt.Capability,
}
ATTRIBUTES = ("streamable_weights_size", "weight_streaming_budget_v2", "device_memory_size_v2", "num_io_tensors")
OWN = {"spec", "library", "logger", "kernels", "strategy", "cache", "name", "value"}
NAMES = {
    *CLASSES,
    "nptype",
    *(f"{of}.{name}" for of, cls in CLASSES.items() for name in dir(cls) if name[0] != "_" and name not in OWN),
    *(f"ICudaEngine.{name}" for name in ATTRIBUTES),
}
LOOK = """
import importlib, json, sys
library = importlib.import_module(sys.argv[1])
found = {}
for name in json.loads(sys.argv[2]):
    thing = library
    for part in name.split("."):
        thing = getattr(thing, part, None)
    if thing is not None:
        found[name] = thing.__doc__ or "" if callable(thing) and "." in name else ""
print(json.dumps(found))
"""


def found_in(library: str) -> dict[str, str]:
    """Which of `NAMES` the library has, with their docstrings; in a process of its own, beside others it crashes."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, library, json.dumps(sorted(NAMES))], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("library", ["tensorrt_rtx", "tensorrt_lean"])
def test_every_name_that_is_used_exists(library: str) -> None:
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    found = found_in(library)
    only_rtx = {name for name in NAMES if name in RTX_ONLY or name.split(".")[0] in RTX_ONLY}
    assert set(found) == (NAMES if library == "tensorrt_rtx" else NAMES - only_rtx)
    for of, cls in CLASSES.items():
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            told = found.get(f"{of}.{name}", "")
            for parameter in list(inspect.signature(method).parameters)[1:] if told else ():
                assert f"{parameter}:" in told, f"{of}.{name} takes no {parameter}"


def test_every_name_of_the_file_is_one_of_the_fake_s() -> None:
    """So that the comparison above covers what `tensorrt.py` uses."""
    source = inspect.getsource(tensorrt)
    for receiver in ("engine", "_engine", "_context", "config", "_cache", "runtime"):
        for part in source.split(f"{receiver}.")[1:]:
            name = part[: len(part) - len(part.lstrip("abcdefghijklmnopqrstuvwxyz_0123456789"))]
            if f"{receiver}.{name}" in ("engine.backends", "engine.errors", "engine.spec"):
                continue
            assert any(known.endswith(f".{name}") for known in NAMES), f"{receiver}.{name}"


def test_every_function_of_cuda_exists() -> None:
    real = cuda.cuda_runtime()
    functions = [name for name in dir(FakeCuda) if name.startswith("cuda") and callable(getattr(FakeCuda, name))]
    assert len(functions) > 15
    for name in functions:
        fake = getattr(FakeCuda, name)
        if inspect.isclass(fake):
            assert all(getattr(getattr(real, name), member.name).value == member.value for member in fake)
            continue
        taken = getattr(real, name).__doc__.split("(", 1)[1].split(")", 1)[0]
        names = [part.split(":")[0].split()[-1] for part in taken.split(",") if part.strip()]
        assert names == list(inspect.signature(fake).parameters)[1:], name
    assert real.cudaStreamNonBlocking == fake_cuda.FakeCuda.cudaStreamNonBlocking


def test_real_library_takes_a_mapped_file_and_our_logger(plan: Path, api: FakeCuda) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    opened = TensorRtBackend("tensorrt-rtx", library, cuda.Device(api))
    with pytest.raises(
        BackendError, match=r"step\.engine: cannot be loaded: expected an engine .*\(.*\); if it persists"
    ):
        opened.load(plan, SPEC)


def test_this_machine_says_why_not() -> None:
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    reason = why_not("tensorrt-rtx", "sm_89")
    if reason is None:
        pytest.skip("this machine has a card of sm_89")
    assert any(word in reason for word in ("no CUDA driver", "cannot use this card", "the engines are for sm_89"))
