"""TensorRT and TensorRT-RTX behind the API that both share: strongly typed engines of fixed shapes.

The two libraries have one origin and most names in common; `RTX_ONLY` are those that only TensorRT-RTX has. It compiles
its kernels for the card when an engine is loaded, and its runtime cache, which is kept in the store, spares that the
next time. Importing both into one process crashes it.
"""

import functools
import importlib
import mmap
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stt2v.engine.backends.base import Closing, Value, Values, WholeEngines
from stt2v.engine.backends.cuda import Block, Device, DeviceArray, cuda_runtime, first_card, free_bytes
from stt2v.engine.backends.host import check_inputs
from stt2v.engine.backends.memory import DeviceMeter, Meter
from stt2v.engine.backends.runtime_cache import read_cache, write_cache
from stt2v.engine.errors import BackendError, OutOfMemoryError
from stt2v.engine.spec import EngineSpec, TensorSpec

RTX_ONLY = (
    "IRuntimeCache",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
    "IExecutionContext.is_stream_capturable",
    "ComputeCapability",
)


class TensorRtBackend(WholeEngines):
    """Loads engines onto the first card.

    weight_bytes: how much of an engine's weights may stay on the card; the rest is streamed in from the host at every
    run, where the engine was built for that. None: all of them as long as they fit.
    """

    def __init__(self, name: str, library: Any, device: Device, weight_bytes: int | None = None) -> None:
        self.name = name
        self.hardware = str(first_card(device.api))
        self.meter: Meter = DeviceMeter(functools.partial(free_bytes, device.api))
        self.device = device
        self.weight_bytes = weight_bytes
        self.library = library
        self.log = _log(library)
        self.runtime = library.Runtime(self.log)

    @property
    def is_rtx(self) -> bool:
        """Whether the library has the names in `RTX_ONLY`."""
        return self.name == "tensorrt-rtx"

    def load(self, path: Path, spec: EngineSpec) -> "TensorRtEngine":
        with self.explained(f"{path}: cannot be loaded"):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                engine = self.runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise BackendError("expected an engine built by this version for this card")
            _check_border(self.library, engine, spec)
        return TensorRtEngine(self, engine, spec, path)

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Put `what` and the library's own words into errors of the block."""
        self.log.errors.clear()
        try:
            yield
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{what}: {error}") from error
        except BackendError as error:
            words = " | ".join(self.log.errors[-3:])
            if "out of memory" in words.lower():
                raise OutOfMemoryError(
                    f"{what}: GPU memory ran out ({words}); close other programs or use smaller sizes"
                ) from error
            raise BackendError(
                f"{what}: {error}{f' ({words})' if words else ''}; if it persists run `stt2v build-engines` again"
            ) from error


class TensorRtEngine(Closing):
    """One engine on the card. What it needs only while it runs, it shares with the others."""

    def __init__(self, backend: TensorRtBackend, engine: Any, spec: EngineSpec, path: Path) -> None:
        self.spec = spec
        self._backend = backend
        self._device = backend.device
        self._engine = engine
        self._context: Any = None
        self._cache: Any = None
        self._path = path
        self._blocks: dict[str, Block] = {}
        self._given: weakref.WeakSet[DeviceArray] = weakref.WeakSet()
        self._scratch = 0  # the address that the context and its graph know
        self._graph: Any = None
        self._captures = True  # until it turns out that it cannot be
        self._device.retain()
        try:
            with backend.explained(f"{path}: cannot be loaded"):
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        self._limit_weights()
        self._context = self._engine.create_execution_context(self._config())
        if self._context is None:
            raise BackendError("TensorRT made no execution context")
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            self._blocks[tensor.name] = self._device.allocate(tensor.nbytes)
            if not self._context.set_tensor_address(tensor.name, self._blocks[tensor.name].address):
                raise BackendError(f"TensorRT took no memory for {tensor.name!r}")

    def _limit_weights(self) -> None:
        """Say how many bytes of the weights stay on the card; it has to be known before there is a context."""
        weights = self._engine.streamable_weights_size
        if not weights:
            return  # the engine was built without streaming, or has no weights
        budget = self._backend.weight_bytes
        if budget is None and free_bytes(self._device.api) < weights + self._engine.device_memory_size_v2:
            budget = self._engine.get_weight_streaming_automatic_budget()
        self._engine.weight_streaming_budget_v2 = weights if budget is None else min(budget, weights)

    def _config(self) -> Any:
        """How to run: with memory that is shared, and for TensorRT-RTX with the kernels of the last time."""
        config = self._engine.create_runtime_config()
        strategy = self._backend.library.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        if self._backend.is_rtx:
            self._cache = config.create_runtime_cache()
            if kept := read_cache(self._path):
                self._cache.deserialize(kept)  # one of another driver or card is refused, and made anew
            config.set_runtime_cache(self._cache)
        return config

    def run(self, inputs: Values) -> dict[str, Value]:
        if self._context is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; load it again")
        check_inputs(self.spec, inputs)
        with self._backend.explained(f"engine {self.spec.name!r}"):
            self._take(inputs)
            self._execute()
            outputs: dict[str, Value] = {tensor.name: self._give(tensor) for tensor in self.spec.outputs}
            self._device.synchronize()
        return outputs

    def _take(self, inputs: Values) -> None:
        """Copy the inputs to where the engine reads them."""
        from_host = []
        for tensor in self.spec.inputs:
            value, block = inputs[tensor.name], self._blocks[tensor.name]
            if isinstance(value, DeviceArray) and value.dtype == tensor.dtype:
                self._device.move(value.block, block, tensor.nbytes)
            else:
                from_host.append((np.require(value, tensor.dtype, "C"), block))
        self._device.upload(from_host)

    def _execute(self) -> None:
        """Give the work to the stream: the first time piece by piece, from then on as one graph where it can be."""
        scratch = self._device.scratch.at_least(self._engine.device_memory_size_v2)
        if scratch.address != self._scratch:
            self._drop_graph()
            self._context.set_device_memory(scratch.address, scratch.nbytes)
            self._scratch = scratch.address
            self._enqueue()
            self._keep_cache()
            return
        if self._graph is None and self._captures:
            self._graph = self._device.captured(self._enqueue) if self._capturable() else None
            self._captures = self._graph is not None
        if self._graph is None:
            self._enqueue()
        else:
            self._device.call("cudaGraphLaunch", self._graph, self._device.stream)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._device.stream)):
            raise BackendError("TensorRT did not run")

    def _capturable(self) -> bool:
        return not self._backend.is_rtx or self._context.is_stream_capturable(int(self._device.stream))

    def _give(self, tensor: TensorSpec) -> DeviceArray:
        """A copy of an output, which later runs leave alone."""
        output = DeviceArray(self._device, tensor.shape, tensor.dtype)
        self._given.add(output)
        self._device.move(self._blocks[tensor.name], output.block, tensor.nbytes)
        return output

    def _keep_cache(self) -> None:
        if self._cache is not None:
            write_cache(self._path, bytes(self._cache.serialize()))

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._device.call("cudaGraphExecDestroy", self._graph)
            self._graph = None

    def close(self) -> None:
        if self._engine is None:
            return
        self._drop_graph()
        self._context = self._cache = self._engine = None  # in this order the library lets go of its memory
        for output in list(self._given):
            output.close()
        for block in self._blocks.values():
            block.close()
        self._blocks.clear()
        self._device.release()


def _log(library: Any) -> Any:
    """A logger of the library's that keeps the errors."""

    class Log(library.ILogger):  # type: ignore[misc]  # a class without types
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= self.Severity.ERROR:
                self.errors.append(" ".join(message.split())[:300])

    return Log()


def _check_border(library: Any, engine: Any, spec: EngineSpec) -> None:
    """Raise BackendError unless the engine takes and gives on the card what the manifest says."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (
            engine.get_tensor_mode(name) == library.TensorIOMode.INPUT,
            np.dtype(library.nptype(engine.get_tensor_dtype(name))),
            tuple(engine.get_tensor_shape(name)),
            engine.get_tensor_location(name) == library.TensorLocation.DEVICE,
        )
        for name in names
    }
    sides = ((True, spec.inputs), (False, spec.outputs))
    wanted = {t.name: (side, np.dtype(t.dtype), t.shape, True) for side, tensors in sides for t in tensors}
    if found != wanted:
        wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise BackendError(f"tensors {wrong} are not as the manifest says")


def open_rtx(target: str | None = None) -> TensorRtBackend:
    """TensorRT-RTX for engines of `target` ("sm_89", or several joined by "+"); None: of whatever card this is.

    Raises BackendError for a machine without a driver and for a card of another kind, ModuleNotFoundError when a
    library is missing.
    """
    api = cuda_runtime()
    card = first_card(api).target
    library = _library("tensorrt_rtx", beside="tensorrt")
    known = [name.replace("SM", "sm_") for name in library.ComputeCapability.__members__ if name.startswith("SM")]
    if card not in known:
        raise BackendError(
            f"tensorrt-rtx cannot use this card, {card}, it knows {', '.join(known)}; choose another backend"
        )
    return _opened("tensorrt-rtx", library, api, card, target)


def open_tensorrt(target: str | None = None) -> TensorRtBackend:
    """TensorRT for engines that were built on a card of the kind `target`. Raises as `open_rtx`."""
    api = cuda_runtime()
    card = first_card(api).target
    return _opened("tensorrt", _library("tensorrt", beside="tensorrt_rtx"), api, card, target)


def _opened(name: str, library: Any, api: Any, card: str, target: str | None) -> TensorRtBackend:
    if target is not None and card not in target.split("+"):
        raise BackendError(f"the engines are for {target}, the card is {card}; build a set with `--target {card}`")
    return TensorRtBackend(name, library, Device(api))


def _library(name: str, beside: str) -> Any:
    if beside in sys.modules:
        raise BackendError(f"{name} crashes beside {beside} in one process; use one of them at a time")
    return importlib.import_module(name)
