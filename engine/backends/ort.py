"""ONNX Runtime: the CPU default, and its CUDA provider with tensors that stay on the device."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Closing, DeviceValue, Value, Values, WholeEngines
from stt2v.engine.backends.cuda import cuda_runtime, first_card, free_bytes
from stt2v.engine.backends.host import check_inputs, host_inputs
from stt2v.engine.backends.memory import DeviceMeter, HostMeter, Meter
from stt2v.engine.errors import BackendError, OutOfMemoryError, UsageError
from stt2v.engine.machine import installed, processors
from stt2v.engine.spec import EngineSpec, TensorSpec

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OUT_OF_MEMORY = ("out of memory", "failed to allocate", "bad_alloc", "bad allocation")


class OrtValue(DeviceValue):
    """A tensor in ONNX Runtime's keeping, on whatever device."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.asarray(self.value.numpy(), dtype)
        return array


class HostEngine(Closing):
    """A loaded ONNX file that takes and gives host arrays; every run returns fresh ones."""

    def __init__(self, session: Any, spec: EngineSpec) -> None:
        self.spec = spec
        self._session = session

    def run(self, inputs: Values) -> dict[str, Value]:
        names = [tensor.name for tensor in self.spec.outputs]
        with translated(f"engine {self.spec.name!r}"):
            outputs = self._open_session().run(names, host_inputs(self.spec, inputs))
        return dict(zip(names, outputs, strict=True))

    def close(self) -> None:
        self._session = None

    def _open_session(self) -> Any:
        if self._session is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; load it again")
        return self._session


class DeviceEngine(HostEngine):
    """A loaded ONNX file whose outputs stay on `device`; every run lets the runtime allocate new ones."""

    def __init__(self, session: Any, spec: EngineSpec, device: str) -> None:
        super().__init__(session, spec)
        self._device = device

    def run(self, inputs: Values) -> dict[str, Value]:
        session = self._open_session()
        check_inputs(self.spec, inputs)
        with translated(f"engine {self.spec.name!r}"):
            binding = session.io_binding()
            bound = [(tensor.name, self._on_device(inputs[tensor.name], tensor)) for tensor in self.spec.inputs]
            for name, value in bound:
                binding.bind_ortvalue_input(name, value)
            for tensor in self.spec.outputs:
                binding.bind_output(tensor.name, self._device)
            session.run_with_iobinding(binding)
            outputs = binding.get_outputs()
        return {tensor.name: OrtValue(value) for tensor, value in zip(self.spec.outputs, outputs, strict=True)}

    def _on_device(self, value: Value, tensor: TensorSpec) -> Any:
        if isinstance(value, OrtValue):
            return value.value
        array = np.require(value, tensor.dtype, "C")
        return runtime().OrtValue.ortvalue_from_numpy(array, self._device, 0)


class OrtBackend(WholeEngines):
    """Loads ONNX files on one device."""

    name = "onnxruntime"

    def __init__(self, device: str) -> None:
        self.device = device
        self.meter: Meter = HostMeter() if device == "cpu" else DeviceMeter(lambda: free_bytes(cuda_runtime()))

    @property
    def hardware(self) -> str:
        return "cpu" if self.device == "cpu" else str(first_card(cuda_runtime()))

    def load(self, path: Path, spec: EngineSpec) -> HostEngine:
        with translated(str(path)):
            session = runtime().InferenceSession(path, session_options(), providers=[PROVIDERS[self.device]])
        return HostEngine(session, spec) if self.device == "cpu" else DeviceEngine(session, spec, self.device)


def open_on(device: str = "cpu") -> OrtBackend:
    """The backend on "cpu" or "cuda". Raises UsageError for another device, BackendError when it cannot be used."""
    if device not in PROVIDERS:
        raise UsageError(f"device {device!r} is not known to onnxruntime; choose one of {', '.join(PROVIDERS)}")
    if PROVIDERS[device] not in runtime().get_available_providers():
        raise BackendError(
            f"onnxruntime has no {PROVIDERS[device]} here; pip uninstall onnxruntime and pip install 'stt2v[gpu]'"
        )
    return OrtBackend(device)


@functools.cache
def runtime() -> Any:
    """The module onnxruntime, which is told to send nothing to its makers, as it otherwise would.

    Raises BackendError unless exactly one of its distributions is installed.
    """
    there = [name for name in DISTRIBUTIONS if installed(name)]
    if not there:
        raise BackendError(
            "onnxruntime is not installed; pip install 'stt2v[cpu]', or 'stt2v[gpu]' for its CUDA provider"
        )
    if len(there) > 1:
        raise BackendError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; "
            "pip uninstall both, then pip install 'stt2v[cpu]' or 'stt2v[gpu]'"
        )
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime  # type: ignore[import-untyped]

    return onnxruntime


def session_options() -> Any:
    """Options for one engine at a time on cores that others use too.

    Without the arena a run peaks about a third lower and gives its memory back, for about a tenth of its speed.
    """
    options = runtime().SessionOptions()
    options.intra_op_num_threads = processors()
    options.inter_op_num_threads = 1
    options.execution_mode = runtime().ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3  # below errors it reports constants that it cannot fold, which nobody can change
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn ONNX Runtime's exceptions into ours, in one line that begins with `what`."""
    try:
        yield
    except _caught() as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        if isinstance(exc, MemoryError) or any(sign in reason.lower() for sign in OUT_OF_MEMORY):
            raise OutOfMemoryError(
                f"{what}: memory ran out in onnxruntime ({reason}); free some or use smaller sizes"
            ) from exc
        raise BackendError(
            f"{what}: onnxruntime failed: {reason}; if it persists run `stt2v build-engines` again"
        ) from exc


@functools.cache
def _caught() -> tuple[type[Exception], ...]:
    """Every exception class of ONNX Runtime (they have no base of their own), and what its bindings raise besides."""
    from onnxruntime.capi import onnxruntime_pybind11_state  # type: ignore[import-untyped]

    classes = vars(onnxruntime_pybind11_state).values()
    own = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)
