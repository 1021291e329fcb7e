"""Graphs compiled by PyTorch's Inductor when they were built; loading one compiles nothing.

An engine is a zip file: what Inductor saved of the compiled graph, the libraries or GPU kernels that it loads, and a
table of the weights that it is called with, which lie in one file beside all engines of a set.
"""

import importlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Closing, DeviceValue, Value, Values
from stt2v.engine.backends.host import check_inputs
from stt2v.engine.backends.memory import DeviceMeter, HostMeter, Meter
from stt2v.engine.errors import BackendError, DeviceLostError, OutOfMemoryError, UsageError
from stt2v.engine.spec import EngineSpec, TensorSpec

DEVICES = ("cpu", "cuda")
ARTIFACT, TABLE, WEIGHTS = "artifact", "weights.json", "weights.bin"
KERNELS = ("attention", "fp8", "geglu", "group_norm")


class TorchValue(DeviceValue):
    """A tensor of PyTorch."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.asarray(self.tensor.cpu().numpy(), dtype)
        return array


class InductorEngine(Closing):
    """A compiled graph and the weights it is called with. It owns the folder that it was unpacked to."""

    def __init__(
        self, spec: EngineSpec, function: Callable[..., Any], weights: list[Any], device: str, folder: Any
    ) -> None:
        self.spec = spec
        self._function: Callable[..., Any] | None = function
        self._weights = weights
        self._device = device
        self._folder = folder

    def run(self, inputs: Values) -> dict[str, Value]:
        import torch

        if self._function is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; load it again")
        check_inputs(self.spec, inputs)
        with (
            translated(f"engine {self.spec.name!r}"),
            caches_in(self._folder.name),
            tuned_convolutions(),
            torch.no_grad(),
        ):
            tensors = [self._on_device(inputs[tensor.name], tensor) for tensor in self.spec.inputs]
            outputs = self._function(*self._weights, *tensors)
        return {tensor.name: TorchValue(output) for tensor, output in zip(self.spec.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._function = None
        self._weights = []
        self._folder.cleanup()

    def _on_device(self, value: Value, tensor: TensorSpec) -> Any:
        import torch

        if isinstance(value, TorchValue):
            return value.tensor.to(self._device)
        return torch.tensor(np.asarray(value, tensor.dtype), device=self._device)  # a copy: an output may be an input


@dataclass
class InductorBackend:
    """Loads engines on one device. Weights that engines share are held once."""

    device: str
    name: str = "inductor"
    _held: dict[str, Any] = field(default_factory=dict)

    @property
    def meter(self) -> Meter:
        return HostMeter() if self.device == "cpu" else DeviceMeter(_free_bytes)

    @property
    def hardware(self) -> str:
        import torch

        return "cpu" if self.device == "cpu" else torch.cuda.get_device_name()

    def load(self, path: Path, spec: EngineSpec) -> InductorEngine:
        folder = TemporaryDirectory(prefix="stt2v-")
        try:
            with translated(str(path)):
                return self._load(path, spec, folder)
        except BaseException:
            folder.cleanup()
            raise

    def _load(self, path: Path, spec: EngineSpec, folder: Any) -> InductorEngine:
        with zipfile.ZipFile(path) as file:
            file.extractall(folder.name)
        table = json.loads((Path(folder.name) / TABLE).read_text(encoding="utf-8"))
        if table["kernels"]:  # on a CPU there are none, and there is no Triton
            register_kernels()
        weights = [self._weight(path.parent / WEIGHTS, row) for row in table["weights"]]
        with caches_in(folder.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own deprecated calls
            from torch._inductor.standalone_compile import CompiledArtifact

            with without_trials():
                artifact = CompiledArtifact.load(path=str(Path(folder.name) / ARTIFACT))
        return InductorEngine(spec, artifact, weights, self.device, folder)

    def _weight(self, path: Path, row: dict[str, Any]) -> Any:
        """A weight as its row says: in the file on a CPU, copied once on a GPU."""
        import torch

        key = f"{path} {sorted(row.items())}"
        if key not in self._held:
            # Copy on write, because PyTorch warns of memory that it must not write to.
            raw = np.memmap(path, np.uint8, "c", row["offset"], row["bytes"]) if row["bytes"] else np.empty(0, np.uint8)
            flat = torch.from_numpy(raw).view(getattr(torch, row["dtype"]))
            self._held[key] = flat.as_strided(row["shape"], row["strides"]).to(self.device)
        return self._held[key]


def open_on(device: str = "cpu") -> InductorBackend:
    """The backend on "cpu" or "cuda". Raises UsageError for another device, BackendError when it cannot be used."""
    import torch

    if device not in DEVICES:
        raise UsageError(f"device {device!r} is not known to inductor; choose one of {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("PyTorch finds no CUDA device here; choose an engine set for cpu")
    return InductorBackend(device)


def register_kernels() -> None:
    """Make our own operators known to PyTorch. Raises ModuleNotFoundError without Triton."""
    for module in KERNELS:
        importlib.import_module(f"stt2v.kernels.{module}")


@contextmanager
def caches_in(folder: str) -> Iterator[None]:
    """Inductor and Triton look for what is compiled in `folder` only."""
    triton = str(Path(folder) / "triton")
    with patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": triton}):
        yield


def tuned_convolutions() -> Any:
    """A block in which cuDNN times its convolutions when it first meets a size.

    What it takes by itself in fp16 is up to three times slower (seen on an H100 with cuDNN 9).
    """
    import torch

    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)


@contextmanager
def without_trials() -> Iterator[None]:
    """Inductor takes the processor's word for what it can, and compiles nothing to find out.

    It has to be so while compiling too: libraries are found by a hash of how they were compiled.
    """
    from torch._inductor import config, cpu_vec_isa

    trusting = patch.object(cpu_vec_isa.VecISA, "check_build", return_value=True)
    with trusting, config.patch(cpp_cache_precompile_headers=False):
        yield


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn PyTorch's exceptions into ours, in one line that begins with `what`."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as exc:
        raise OutOfMemoryError(f"{what}: memory ran out in PyTorch; free some or use smaller sizes") from exc
    except torch.AcceleratorError as exc:
        raise DeviceLostError(f"{what}: PyTorch failed on the card: {' '.join(str(exc).split())[:300]}") from exc
    except (RuntimeError, AssertionError, ValueError, KeyError, OSError, zipfile.BadZipFile) as exc:
        reason = " ".join(str(exc).split())[:300] or type(exc).__name__
        raise BackendError(
            f"{what}: PyTorch {torch.__version__} failed: {reason}; an engine needs the PyTorch that it was built "
            "with: run `stt2v build-engines` again"
        ) from exc


def _free_bytes() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])
