"""The CUDA runtime through cuda-python, as far as compiled engines need it: memory, copies, graphs; no torch.

All work goes to one stream in order, and whoever gives it work waits for it, so memory that two engines never need at
once is shared by all of them.
"""

import ctypes
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Closing, DeviceValue
from stt2v.engine.errors import BackendError, DeviceLostError, OutOfMemoryError

HostArray = npt.NDArray[Any]
LOSING = frozenset({214, 700, 702, 709, 710, *range(714, 720)})
"""Statuses after which every later call of the process fails: faults of kernels, timeouts, memory beyond repair."""

ALIGNMENT = 256  # what CUDA itself aligns allocations to


def cuda_runtime() -> Any:
    """The module `cuda.bindings.runtime`. Raises ModuleNotFoundError when cuda-python is not installed."""
    return importlib.import_module("cuda.bindings.runtime")


@dataclass(frozen=True)
class Card:
    """target: by compute capability, such as "sm_89"; name: as sold."""

    target: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"


def first_card(api: Any) -> Card:
    """The card that engines run on. Raises BackendError on a machine without a driver or a card."""
    if not _checked(api, "cudaGetDeviceCount"):
        raise BackendError("CUDA finds no card; check `nvidia-smi` and CUDA_VISIBLE_DEVICES")
    found = _checked(api, "cudaGetDeviceProperties", 0)
    return Card(f"sm_{found.major}{found.minor}", found.name.decode().rstrip("\0"))


def free_bytes(api: Any) -> int:
    """Memory of the card that nobody uses."""
    return int(_checked(api, "cudaMemGetInfo"))


def _checked(api: Any, name: str, *arguments: Any) -> Any:
    """What the function returns first after its status. Raises OutOfMemoryError and BackendError by that status."""
    status, *values = getattr(api, name)(*arguments)
    if int(status):
        raise _error(api, name, status)
    return values[0] if values else None


def _error(api: Any, name: str, status: Any) -> BackendError:
    words, text = (getattr(api, call)(status)[1].decode() for call in ("cudaGetErrorName", "cudaGetErrorString"))
    reason = f"{name}: {words} ({int(status)}): {text}"
    if status == api.cudaError_t.cudaErrorMemoryAllocation:
        return OutOfMemoryError(f"GPU memory ran out ({reason}); close other programs or use smaller sizes")
    if status in (api.cudaError_t.cudaErrorInsufficientDriver, api.cudaError_t.cudaErrorNoDevice):
        return BackendError(f"no CUDA driver and card that can be used ({reason}); check `nvidia-smi`")
    kind = DeviceLostError if int(status) in LOSING else BackendError
    return kind(f"CUDA failed ({reason}); check the driver with `nvidia-smi`")


class Block(Closing):
    """Memory of the card, or pinned memory of the host, until it is closed."""

    def __init__(self, api: Any, nbytes: int, pinned: bool = False) -> None:
        allocate, self._free = ("cudaMallocHost", "cudaFreeHost") if pinned else ("cudaMalloc", "cudaFree")
        self._api = api
        self.nbytes = max(nbytes, ALIGNMENT)  # of nothing there would be no address
        self.address = int(_checked(api, allocate, self.nbytes))

    def close(self) -> None:
        if self.address:
            address, self.address = self.address, 0
            _checked(self._api, self._free, address)


class DeviceArray(DeviceValue):
    """A tensor that lies on the card until it is closed or forgotten; `numpy.asarray` copies it to the host."""

    def __init__(self, device: "Device", shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._device = device
        self._shape = shape
        self.dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.block = device.allocate(self.nbytes)
        self._free = weakref.finalize(self, self.block.close)
        self._free.atexit = False  # the driver frees everything by then

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        if not self.block.address:
            raise BackendError("a tensor was read after its engine was closed; keep a copy of it")
        return self._device.download(self.block, self._shape, self.dtype).astype(dtype or self.dtype, copy=False)

    def close(self) -> None:
        """Give the memory back."""
        self._free()


class Shared:
    """One block for all that need it one after the other, as large as the largest need so far."""

    def __init__(self, api: Any, pinned: bool = False) -> None:
        self._api, self._pinned = api, pinned
        self._block: Block | None = None

    def at_least(self, nbytes: int) -> Block:
        """The block; it is another one, its contents lost, when it had to grow."""
        if self._block is None or self._block.nbytes < nbytes:
            self.close()  # before the larger one, which might not fit beside it
            self._block = Block(self._api, nbytes, self._pinned)
        return self._block

    def close(self) -> None:
        """Give the memory back."""
        if self._block is not None:
            self._block.close()
            self._block = None


class Device:
    """The first card: a stream, and what engines share. It is open as long as any of its users.

    scratch: memory of the card for what lies between the operations of the engine that runs; staging: pinned memory
    that tensors pass through on their way between the host and the card.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.scratch = Shared(api)
        self._staging = Shared(api, pinned=True)
        self._stream: Any = None
        self._users = 0

    @property
    def stream(self) -> Any:
        """The stream, made when it is first needed."""
        if self._stream is None:
            self._stream = self.call("cudaStreamCreateWithFlags", self.api.cudaStreamNonBlocking)
        return self._stream

    def call(self, name: str, *arguments: Any) -> Any:
        """Call the CUDA function `name`. Raises OutOfMemoryError and BackendError by its status."""
        return _checked(self.api, name, *arguments)

    def retain(self) -> None:
        """Count one user more."""
        self._users += 1

    def release(self) -> None:
        """Count one user less; the last one closes everything."""
        self._users -= 1
        if not self._users:
            self.scratch.close()
            self._staging.close()
            if self._stream is not None:
                self.call("cudaStreamDestroy", self._stream)
                self._stream = None

    def allocate(self, nbytes: int) -> Block:
        """Memory of the card."""
        return Block(self.api, nbytes)

    def synchronize(self) -> None:
        """Wait for everything that was begun; errors of the work itself appear here."""
        self.call("cudaStreamSynchronize", self.stream)

    def upload(self, arrays: list[tuple[HostArray, Block]]) -> None:
        """Begin to copy arrays of the host to their blocks, all through pinned memory at once."""
        starts = np.cumsum([0, *(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array, _ in arrays)]).tolist()
        staging = self._staging.at_least(starts[-1])
        for start, (array, block) in zip(starts, arrays, strict=False):
            pinned = host_view(staging.address + start, array.shape, array.dtype)
            np.copyto(pinned, array)
            self._copy(block.address, staging.address + start, array.nbytes, "HostToDevice")

    def move(self, source: Block, target: Block, nbytes: int) -> None:
        """Begin to copy within the card."""
        self._copy(target.address, source.address, nbytes, "DeviceToDevice")

    def download(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
        """The contents of `block` as an array of the host's own."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        staging = self._staging.at_least(nbytes)
        self._copy(staging.address, block.address, nbytes, "DeviceToHost")
        self.synchronize()
        return host_view(staging.address, shape, dtype).copy()

    def _copy(self, target: int, source: int, nbytes: int, kind: str) -> None:
        direction = getattr(self.api.cudaMemcpyKind, f"cudaMemcpy{kind}")
        self.call("cudaMemcpyAsync", target, source, nbytes, direction, self.stream)

    def captured(self, enqueue: Callable[[], None]) -> Any:
        """An executable graph of what `enqueue` gives the stream to do, or None when that cannot be captured.

        Piece by piece it gives the same result, only slower, so no failure to capture is an error.
        """
        try:
            graph = self._capture(enqueue)
        except BackendError:
            return None
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        except BackendError:
            return None
        finally:
            self.call("cudaGraphDestroy", graph)

    def _capture(self, enqueue: Callable[[], None]) -> Any:
        self.call("cudaStreamBeginCapture", self.stream, self.api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        try:
            enqueue()
        except BaseException:
            _, graph = self.api.cudaStreamEndCapture(self.stream)  # whatever came of it, the stream is free again
            if graph is not None:
                self.call("cudaGraphDestroy", graph)
            raise
        return self.call("cudaStreamEndCapture", self.stream)


def host_view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """Memory of the host as an array, without a copy."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
    return memory.view(dtype).reshape(shape)
