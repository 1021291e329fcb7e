"""Graphs compiled by PyTorch's Inductor when they were built; loading one compiles nothing.

An engine is a zip file: what Inductor saved of the compiled graph, the libraries or GPU kernels that it loads, and a
table of the weights that it is called with, which lie in one file beside all engines of a set.
"""

import importlib
import importlib.util
import json
import os
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from stt2v.engine.backends.base import Closing, Value, Values
from stt2v.engine.backends.host import check_inputs
from stt2v.engine.backends.inductor_ahead import ALONE, LoadsAhead
from stt2v.engine.backends.inductor_card import LATER, SLACK, CudaCard, inside
from stt2v.engine.backends.inductor_recording import Plainly, Recorder, Runner
from stt2v.engine.backends.inductor_values import TorchValue, begun_on, on_device
from stt2v.engine.backends.inductor_weights import CardWeights, MappedWeights, Table, Weights
from stt2v.engine.backends.memory import Cost, HostMeter, Meter
from stt2v.engine.backends.residency import Residency
from stt2v.engine.errors import BackendError, DeviceLostError, OutOfMemoryError, UsageError
from stt2v.engine.spec import EngineSpec

DEVICES = ("cpu", "cuda")
ARTIFACT = "artifact"
BRIEF = 4
"""Runs of an engine before others are loaded beside it. In the first kernels are loaded and the second is recorded,
which would have to wait; and engines that run a few times, as between two chunks, are soon followed by new ones."""
KERNELS = ("attention", "convolution", "fp8", "geglu", "group_norm", "linear", "moments")


class InductorEngine(Closing):
    """A compiled graph, which gets its weights from the backend. It owns the folder that it was unpacked to."""

    def __init__(self, spec: EngineSpec, function: Callable[..., Any], table: Table, backend: Any, folder: Any) -> None:
        self.spec = spec
        self._function: Callable[..., Any] | None = function
        self._table = table
        self._needs = table.needs(spec)
        self._backend = backend
        self._folder = folder
        self._runs = 0

    def run(self, inputs: Values) -> dict[str, Value]:
        import torch

        if self._function is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; load it again")
        check_inputs(self.spec, inputs)
        with (
            translated(f"engine {self.spec.name!r}"),
            nullcontext() if self._runs else caches_in(self._folder.name),  # where kernels are loaded from at first
            steady_convolutions(),
            torch.no_grad(),
        ):
            name, runner, weights = self.spec.name, self._backend.runner, self._backend.weights
            needs = runner.needs(name, self._needs)
            own = weights.of(name, self._table, needs)
            device = self._backend.device
            tensors = [on_device(inputs[tensor.name], tensor.dtype, device) for tensor in self.spec.inputs]
            outputs = runner.run(name, self._needs, self._function, own, tensors)
            made = begun_on(device)
            weights.ahead(name, needs)
        if self._runs >= BRIEF:
            self._backend.loads.begin()
        self._runs += 1
        return {
            tensor.name: TorchValue(output, made) for tensor, output in zip(self.spec.outputs, outputs, strict=True)
        }

    def close(self) -> None:
        if self._function is not None:
            self._function = None
            self._backend.open.discard(self.spec.name)
            self._backend.runner.forget(self.spec.name)
            self._backend.weights.release(self._table)
            self._folder.cleanup()


class AllocatorMeter:
    """The memory of a card by PyTorch's allocator, which keeps what engines gave back and does not count it."""

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What the block takes; it is known once the block is left."""
        import torch

        cost, before = Cost(), torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield cost
        cost.held = max(0, torch.cuda.memory_allocated() - before)
        cost.peak = max(0, torch.cuda.max_memory_allocated() - before)


class InductorBackend:
    """Loads engines on one device, "cpu" or "cuda"."""

    name = "inductor"

    def __init__(self, device: str, weights: Weights, meter: Meter, runner: Runner | None = None) -> None:
        self.device = device
        self.weights = weights
        self.meter = meter
        self.runner = runner or Plainly()
        self.loads = LoadsAhead(self._loaded)
        self.open = set[str]()

    @property
    def hardware(self) -> str:
        import torch

        return "cpu" if self.device == "cpu" else torch.cuda.get_device_name()

    def load(self, path: Path, spec: EngineSpec) -> InductorEngine:
        engine = self.loads.take(spec.name) or self._loaded(path, spec)
        self.open.add(spec.name)
        return engine

    def expect(self, order: Iterable[tuple[Path, EngineSpec]]) -> None:
        order = [*order]
        with translated("the weights"):
            tables = [(spec, Table.read(path)) for path, spec in order]
        self.weights.expect([(spec.name, table, table.needs(spec)) for spec, table in tables])
        if self.budget is not None:  # on a card: a processor is busy with the engine that runs
            self.loads.expect(place for place in order if place[1].name not in self.open)

    def _loaded(self, path: Path, spec: EngineSpec) -> InductorEngine:
        folder = TemporaryDirectory(prefix="stt2v-")
        try:
            with translated(str(path)):
                return self._unpacked(path, spec, folder)
        except BaseException:
            folder.cleanup()
            raise

    def limit(self, nbytes: int) -> None:
        import torch

        if not isinstance(self.weights, CardWeights):
            raise UsageError("--vram is the memory of a card, this engine set is for the processor; leave it out")
        room = inside(nbytes)
        allowed = (room + SLACK) / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed))
        self.weights.residency.budget = min(room, self.weights.residency.budget or nbytes)

    def refit(self) -> bool:
        gone = self.runner.give_up()
        less = isinstance(self.weights, CardWeights) and self.weights.refit()
        return gone or less

    @property
    def budget(self) -> int | None:
        return self.weights.residency.budget if isinstance(self.weights, CardWeights) else None

    def _unpacked(self, path: Path, spec: EngineSpec, folder: Any) -> InductorEngine:
        table = Table.read(path)
        with zipfile.ZipFile(path) as file:
            file.extractall(folder.name)
        lead_to_kernels(Path(folder.name))
        if table.kernels:  # on a CPU there are none, and there is no Triton
            register_kernels()
        with caches_in(folder.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own deprecated calls
            from torch._inductor import config
            from torch._inductor.standalone_compile import CompiledArtifact

            # Nothing is compiled, so PyTorch need not start processes that would do it.
            with without_trials(), config.patch(compile_threads=1):
                artifact = CompiledArtifact.load(path=str(Path(folder.name) / ARTIFACT))
        return InductorEngine(spec, artifact, table, self, folder)


def open_on(device: str = "cpu") -> InductorBackend:
    """The backend on "cpu" or "cuda".

    Raises UsageError for another device, ModuleNotFoundError without PyTorch, BackendError when it cannot be used.
    """
    if device not in DEVICES:
        raise UsageError(f"device {device!r} is not known to inductor; choose one of {', '.join(DEVICES)}")
    if importlib.util.find_spec("torch") is None:  # it is imported with the first engine
        raise ModuleNotFoundError("no PyTorch", name="torch")
    if device == "cpu":
        return InductorBackend(device, MappedWeights(), HostMeter())
    import torch

    # Whatever goes leaves a hole, in which nothing larger would fit: pages are mapped anew instead.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if not torch.cuda.is_available():
        raise BackendError("PyTorch finds no CUDA device here; choose an engine set for cpu")
    card = CudaCard()
    residency = Residency(card.free() - LATER - SLACK)
    return InductorBackend(device, CardWeights(residency, card), AllocatorMeter(), Recorder(residency, card))


def register_kernels() -> None:
    """Make our own operators known to PyTorch. Raises ModuleNotFoundError without Triton."""
    for module in KERNELS:
        importlib.import_module(f"stt2v.kernels.{module}")


def lead_to_kernels(folder: Path) -> None:
    """Have Triton find the kernels in `folder`: it noted where each file lay when it compiled them, and would again."""
    for group in folder.rglob("__grp__*.json"):
        names = json.loads(group.read_bytes())["child_paths"]
        group.write_text(json.dumps({"child_paths": {name: str(group.with_name(name)) for name in names}}))


@contextmanager
def caches_in(folder: str) -> Iterator[None]:
    """Inductor and Triton look for what is compiled in `folder` only, and do so for one thread at a time."""
    places = {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": str(Path(folder) / "triton")}
    with ALONE:
        before = {name: os.environ.get(name) for name in places}
        os.environ.update(places)  # these two alone: other threads may read the rest meanwhile
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def steady_convolutions() -> Any:
    """A block in which cuDNN computes a convolution the same way each time.

    Having it time its kernels when it first meets a size is no faster (VAE on an H100: 195.8 ms, 195.4 without).
    """
    import torch

    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


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
        traceback.clear_frames(exc.__traceback__)  # they hold what was computed so far
        raise OutOfMemoryError(f"{what}: memory ran out in PyTorch; free some or use smaller sizes") from exc
    except torch.AcceleratorError as exc:
        raise DeviceLostError(f"{what}: PyTorch failed on the card: {' '.join(str(exc).split())[:300]}") from exc
    except (RuntimeError, AssertionError, ValueError, LookupError, OSError, zipfile.BadZipFile) as exc:
        place = traceback.extract_tb(exc.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        reason = f"{type(exc).__name__} at {where}: {' '.join(str(exc).split())[:300]}"
        raise BackendError(
            f"{what}: PyTorch {torch.__version__} failed: {reason}; an engine needs the PyTorch that it was built "
            "with: run `stt2v build-engines` again"
        ) from exc
