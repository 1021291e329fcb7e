"""A stand-in for `tensorrt` and `tensorrt_rtx`, whose engines run on no machine of a processor alone.

An engine's file is the JSON of its border (`plan_of`); what it computes is the fake backend's arithmetic, in the memory
that it is given. Names and argument orders are the libraries' own, which a test compares.
"""

import enum
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stt2v.engine.backends.cuda import host_view
from stt2v.engine.backends.fake import Function, blend
from stt2v.engine.backends.fake_cuda import FakeCuda
from stt2v.engine.spec import EngineSpec, TensorSpec

Mode = enum.Enum("Mode", ["INPUT", "OUTPUT"])
Location = enum.Enum("Location", ["DEVICE", "HOST"])
Strategy = enum.Enum("Strategy", ["STATIC", "USER_MANAGED"])
DataType = enum.Enum("DataType", ["FLOAT", "HALF", "INT64", "INT32", "BOOL", "UINT8"])
NAMES = dict(zip(DataType, ("float32", "float16", "int64", "int32", "bool", "uint8"), strict=True))
Capability = enum.Enum("Capability", ["NONE", "CURRENT", "SM86", "SM89", "SM120"])


def plan_of(spec: EngineSpec, streamable: int = 0, scratch: int = 64) -> bytes:
    """What a fake engine's file holds."""
    return json.dumps({"spec": spec.to_json(), "streamable": streamable, "scratch": scratch}).encode()


class ILogger:
    """Base of loggers; a lower severity is graver."""

    class Severity(enum.IntEnum):
        """Of a message."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRt:
    """The module, with the names of TensorRT-RTX or without those that only it has.

    `function` is what engines compute; `contexts` and `caches` are what was made and lives or was kept.
    """

    TensorIOMode, TensorLocation, ExecutionContextAllocationStrategy = Mode, Location, Strategy

    def __init__(self, cuda: FakeCuda, rtx: bool = True, function: Function = blend) -> None:
        self.ILogger = ILogger
        self.cuda, self.rtx, self.function = cuda, rtx, function
        self.capturable = True
        if rtx:
            self.ComputeCapability, self.IRuntimeCache = Capability, Cache

    def nptype(self, trt_type: DataType) -> type[np.generic]:
        return np.dtype(NAMES[trt_type]).type

    def Runtime(self, logger: ILogger) -> "Runtime":
        return Runtime(self, logger)


class Runtime:
    """Makes engines of their files."""

    def __init__(self, library: FakeTensorRt, logger: ILogger) -> None:
        self._library, self._logger = library, logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> "ICudaEngine | None":
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(ILogger.Severity.ERROR, "IRuntime::deserializeCudaEngine:\n magic tag does not match")
            return None
        return ICudaEngine(self._library, self._logger, plan)


class ICudaEngine:
    """An engine: its border, what memory it needs, and contexts to run it."""

    def __init__(self, library: FakeTensorRt, logger: ILogger, plan: Mapping[str, Any]) -> None:
        self.spec = EngineSpec.from_json(plan["spec"])
        self.library, self.logger = library, logger
        self.num_io_tensors = len(self._tensors)
        self.streamable_weights_size = plan["streamable"]
        self.device_memory_size_v2 = plan["scratch"]
        self.weight_streaming_budget_v2: int | None = None

    @property
    def _tensors(self) -> dict[str, TensorSpec]:
        return {tensor.name: tensor for tensor in (*self.spec.outputs, *self.spec.inputs)}

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name in {tensor.name for tensor in self.spec.outputs} else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return next(kind for kind, dtype in NAMES.items() if dtype == self._tensors[name].dtype)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def get_tensor_location(self, name: str) -> Location:
        return Location.DEVICE

    def get_weight_streaming_automatic_budget(self) -> int:
        return int(self.streamable_weights_size // 2)

    def create_runtime_config(self) -> "IRuntimeConfig":
        return RtxRuntimeConfig() if self.library.rtx else IRuntimeConfig()

    def create_execution_context(self, runtime_config: "IRuntimeConfig") -> "IExecutionContext | None":
        if self.library.cuda.fails("create_execution_context"):
            self.logger.log(ILogger.Severity.INTERNAL_ERROR, "[defaultAllocator.cpp] Out of memory")
            return None
        return (RtxExecutionContext if self.library.rtx else IExecutionContext)(self, runtime_config)


class IRuntimeConfig:
    """How a context is to run."""

    def __init__(self) -> None:
        self.strategy = Strategy.STATIC
        self.cache: Cache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self.strategy = strategy


class RtxRuntimeConfig(IRuntimeConfig):
    """With what only TensorRT-RTX has."""

    def create_runtime_cache(self) -> "Cache":
        return Cache()

    def set_runtime_cache(self, cache: "Cache") -> bool:
        self.cache = cache
        return True


class Cache:
    """The kernels of a card, here a word; those of another card are refused."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        self.kernels = blob if blob.startswith(b"kernels") else b""
        return bool(self.kernels)

    def serialize(self) -> bytes:
        return self.kernels


class IExecutionContext:
    """Runs an engine in memory that was given to it."""

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        self._engine, self._config = engine, config
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory in self._engine.library.cuda.device

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._engine.library.cuda
        cuda.calls.append("execute_async_v3")
        address, size = self._scratch
        enough = self._config.strategy is Strategy.USER_MANAGED and size >= self._engine.device_memory_size_v2
        if not enough or cuda.fails("execute_async_v3"):
            self._engine.logger.log(ILogger.Severity.ERROR, "IExecutionContext::enqueueV3: it cannot be")
            return False
        if self._config.cache is not None and not self._config.cache.kernels:
            self._config.cache.kernels = b"kernels"
        cuda.enqueue(self._work(address))
        return True

    def _work(self, scratch: int) -> Callable[[], None]:
        engine, cuda = self._engine, self._engine.library.cuda

        def view(tensor: TensorSpec) -> Any:
            return host_view(self._addresses[tensor.name], tensor.shape, np.dtype(tensor.dtype))

        def work() -> None:
            if scratch not in cuda.device:
                raise AssertionError("the engine ran in memory that was given back")
            inputs = {tensor.name: view(tensor).copy() for tensor in engine.spec.inputs}
            for name, value in engine.library.function(engine.spec, inputs).items():
                view(next(tensor for tensor in engine.spec.outputs if tensor.name == name))[...] = value

        return work


class RtxExecutionContext(IExecutionContext):
    """With what only TensorRT-RTX has."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self._engine.library.capturable
