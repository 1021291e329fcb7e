"""A stand-in for `cuda.bindings.runtime` on a machine without a card: its "device memory" is the host's.

It has the names, argument orders and results of the functions that `cuda.py` calls, and what a real one does not show:
the order of calls, memory that is still held, and failures on demand.
"""

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Work = Callable[[], None]


class CudaError(enum.IntEnum):
    """Statuses, with CUDA's own numbers."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class CopyKind(enum.IntEnum):
    """Directions of copies."""

    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class CaptureMode(enum.IntEnum):
    """How strictly a capture is kept apart."""

    cudaStreamCaptureModeRelaxed = 2


class Graph(list[Work]):
    """Captured work."""

    def run(self) -> None:
        """Do it in order."""
        for work in self:
            work()


class FakeCuda:
    """The module. `failures` maps the name of a function to the status that its next call returns instead."""

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = CudaError, CopyKind, CaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self, capability: tuple[int, int] = (8, 9), free: int = 1 << 30) -> None:
        self.capability, self.free = capability, free
        self.calls: list[str] = []
        self.failures: dict[str, CudaError] = {}
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.graphs: list[Graph] = []
        self._capture: Graph | None = None

    @property
    def held(self) -> int:
        """How many things were made and not destroyed."""
        return len(self.device) + len(self.pinned) + len(self.streams) + len(self.graphs)

    def enqueue(self, work: Work) -> None:
        """Do it, or put it into the graph that is being captured: what a library's kernels would come to."""
        if self._capture is None:
            work()
        else:
            self._capture.append(work)

    def fails(self, name: str) -> bool:
        """Whether the function `name` of the library above was to fail; once."""
        return self.failures.pop(name, None) is not None

    def _answer(self, name: str, make: Callable[[], Any] = lambda: None, detail: str = "") -> tuple[Any, ...]:
        self.calls.append(name + detail)
        if status := self.failures.pop(name, None):
            return status, None
        return CudaError.cudaSuccess, make()

    def cudaGetErrorName(self, error: CudaError) -> tuple[CudaError, bytes]:
        return CudaError.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: CudaError) -> tuple[CudaError, bytes]:
        return CudaError.cudaSuccess, b"in words"

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._answer("cudaGetDeviceCount", lambda: 1)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        major, minor = self.capability
        return self._answer(
            "cudaGetDeviceProperties", lambda: SimpleNamespace(major=major, minor=minor, name=b"Stand-in")
        )

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        taken = sum(len(block) for block in self.device.values())
        return (*self._answer("cudaMemGetInfo", lambda: self.free - taken), 24 << 30)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._answer("cudaMalloc", lambda: _new(self.device, size))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._answer("cudaMallocHost", lambda: _new(self.pinned, size))

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return self._answer("cudaFree", lambda: _drop(self.device, devPtr))

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self._answer("cudaFreeHost", lambda: _drop(self.pinned, ptr))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamCreateWithFlags", self._stream)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamDestroy", lambda: self.streams.remove(stream))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._answer("cudaStreamSynchronize")

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: CopyKind, stream: int) -> tuple[Any, ...]:
        """Both ends must be whole in memory of the kind that the direction names; a real one ends the context."""
        source = self.pinned if kind is CopyKind.cudaMemcpyHostToDevice else self.device
        target = self.pinned if kind is CopyKind.cudaMemcpyDeviceToHost else self.device
        if not (_holds(source, src, count) and _holds(target, dst, count)):
            self.failures.setdefault("cudaMemcpyAsync", CudaError.cudaErrorIllegalAddress)
        detail = kind.name.removeprefix("cudaMemcpy")
        return self._answer("cudaMemcpyAsync", lambda: self.enqueue(lambda: _copy(dst, src, count)), f" {detail}")

    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Any, ...]:
        return self._answer("cudaStreamBeginCapture", self._begin)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        capture, self._capture = self._capture, None
        return self._answer("cudaStreamEndCapture", lambda: self._kept(capture))

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Any, ...]:
        return self._answer("cudaGraphInstantiate", lambda: self._kept(Graph(graph)))

    def cudaGraphLaunch(self, graphExec: Graph, stream: int) -> tuple[Any, ...]:
        return self._answer("cudaGraphLaunch", graphExec.run)

    def cudaGraphDestroy(self, graph: Graph) -> tuple[Any, ...]:
        return self._answer("cudaGraphDestroy", lambda: self._forget(graph))

    def cudaGraphExecDestroy(self, graphExec: Graph) -> tuple[Any, ...]:
        return self._answer("cudaGraphExecDestroy", lambda: self._forget(graphExec))

    def _stream(self) -> int:
        stream = len(self.calls)
        self.streams.add(stream)
        return stream

    def _begin(self) -> None:
        self._capture = Graph()

    def _kept(self, graph: Graph | None) -> Graph | None:
        if graph is not None:
            self.graphs.append(graph)
        return graph

    def _forget(self, graph: Graph) -> None:
        self.graphs = [kept for kept in self.graphs if kept is not graph]


def _new(memory: dict[int, Any], size: int) -> int:
    buffer = (ctypes.c_uint8 * size)()
    memory[ctypes.addressof(buffer)] = buffer
    return ctypes.addressof(buffer)


def _drop(memory: dict[int, Any], address: int) -> None:
    del memory[address]


def _copy(target: int, source: int, count: int) -> None:
    ctypes.memmove(target, source, count)


def _holds(memory: dict[int, Any], address: int, count: int) -> bool:
    return any(start <= address and address + count <= start + len(buffer) for start, buffer in memory.items())
