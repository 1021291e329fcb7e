"""Engines by PyTorch's own compiler: our kernels and FP8 in the graph, weights as arguments, then Inductor."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from stt2v import kernels
from stt2v.engine.backends import runs_here
from stt2v.engine.backends.inductor import ARTIFACT, DEVICES
from stt2v.engine.backends.inductor_weights import TABLE, WEIGHTS
from stt2v.engine.errors import ExportError
from stt2v.engine.machine import installed
from stt2v.engine.manifest import EngineEntry
from stt2v.export.biases import leave_biases_to_sums
from stt2v.export.capture import Program
from stt2v.export.chains import compose_layers
from stt2v.export.compilers import Compiled, Finish
from stt2v.export.constants import work_out
from stt2v.export.flat_maps import flat_maps
from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.fp8 import quantise
from stt2v.export.inductor_builder import REPORT, Job, Layout
from stt2v.export.reference import drawn_like
from stt2v.export.sensitivity import is_for_fp8, sensitive_layers
from stt2v.export.shares import put_shares_into_weights
from stt2v.export.shifts import put_shifts_into_biases
from stt2v.export.side_by_side import join_layers
from stt2v.export.transformer_ends import merge_ends
from stt2v.export.weight_file import WeightFile

KEPT = (".so", ".cubin", ".json", ".ptx")  # files of the compiler's cache that loading looks for
SUFFIX = ".inductor"
CACHE = "cache"  # the compiler's, within the folder of a job
SIDE_BY_SIDE = 4  # builders that have the threads of this machine among them
LONGEST = 300  # letters of an error


class InductorCompiler:
    """Compiles for this machine: host code is for its processor, device code for its card."""

    targets = DEVICES
    precisions = ("fp32", "fp16", "fp8")
    joins_targets = False

    def tools(self) -> dict[str, str]:
        found = {"torch": str(torch.__version__)}
        if triton := installed("triton"):
            found["triton"] = triton
        return found if self.own_target() == "cpu" else found | {"stt2v-kernels": own_kernels()}

    @property
    def fp8_targets(self) -> tuple[str, ...]:
        """A card, unless the one that is here is older than Ada."""
        older = torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9)
        return () if older else ("cuda",)

    def own_target(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def runs_here(self, target: str) -> bool:
        return runs_here("inductor", target)

    @contextmanager
    def opened(self, directory: Path, target: str) -> Iterator["InductorCompile"]:
        with WeightFile(directory / WEIGHTS) as weights:
            yield InductorCompile(directory, weights, target)


@dataclass(frozen=True)
class InductorCompile:
    """The engines of one set and the weights that they share."""

    directory: Path
    weights: WeightFile
    target: str

    def __call__(self, program: Program) -> Finish:
        name = program.spec.name
        flat, counts, kept = lower(program.exported, self.target)
        # The environment is taken here because engines that run beside the builders change it for a while.
        job = _Job(name, self.directory, bool(counts), activation_bytes(flat), dict(os.environ))
        inputs = [torch.empty(t.shape, dtype=getattr(torch, t.dtype), device="meta") for t in program.spec.inputs]
        layouts = tuple(Layout.of(tensor, self.target) for tensor in (*flat.weights.values(), *inputs))
        job.folder.mkdir()
        try:
            Job(flat.module, layouts, job.kernels).save(job.folder)
        except (AttributeError, NotImplementedError, TypeError, pickle.PicklingError) as error:
            shutil.rmtree(job.folder)
            raise ExportError(f"graph {name!r} cannot be sent to the process that compiles it: {error}") from error
        rows = [self._row(weight) for weight in flat.weights.values()]
        self.weights.flush()
        size = sum(weight.nbytes for weight in flat.weights.values())
        del flat
        if self.target == "cuda":
            torch.cuda.empty_cache()  # others of this build need the memory
        return lambda: replace(job.build(rows, size, counts), kept=kept)

    def adopt(self, source: Path, entry: EngineEntry) -> None:
        """Its weights are found again or placed anew, so that nothing is kept that no engine uses."""
        with zipfile.ZipFile(source / entry.file) as old, zipfile.ZipFile(self.directory / entry.file, "w") as new:
            for member in old.infolist():
                if member.filename != TABLE:
                    new.writestr(member, old.read(member))
            table = json.loads(old.read(TABLE))
            for row in table["weights"]:
                shape = (row["bytes"],)
                raw = np.memmap(source / WEIGHTS, np.uint8, "r", row["offset"], shape) if row["bytes"] else np.empty(0)
                row["offset"], _ = self.weights.place(raw)
            new.writestr(TABLE, json.dumps(table))
        self.weights.flush()

    def _row(self, weight: Tensor) -> dict[str, Any]:
        """Where a weight is, as the engine is to find it: the bytes in the order of memory, dense in any order."""
        order = sorted(range(weight.ndim), key=lambda axis: (-weight.stride()[axis], axis))
        raw = weight.detach().permute(order).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        offset, length = self.weights.place(raw)
        strides = list(weight.stride())
        dtype = str(weight.dtype).removeprefix("torch.")
        return {"offset": offset, "bytes": length, "dtype": dtype, "shape": list(weight.shape), "strides": strides}


@dataclass(frozen=True)
class _Job:
    """One engine in the making by a process of its own. What lies in `folder` goes when it is built.

    activations: by the graph; on a card they are measured instead.
    """

    name: str
    directory: Path
    kernels: bool
    activations: int
    environment: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return self.directory / f".{self.name}"

    def build(self, rows: Sequence[Mapping[str, Any]], size: int, counts: Mapping[str, int]) -> Compiled:
        """Compile the graph that lies in the folder, whose weights are of `size` and lie where `rows` say."""
        try:
            self._run_builder()
            report = json.loads((self.folder / REPORT).read_text(encoding="utf-8"))
            peak = report.pop("activation_bytes", self.activations)
            self._pack({"kernels": self.kernels, "activation_bytes": peak, "weights": rows})
        finally:
            shutil.rmtree(self.folder)
        return Compiled(f"{self.name}{SUFFIX}", size, peak, {**counts, **report})

    def _run_builder(self) -> None:
        command = [sys.executable, "-P", "-m", "stt2v.export.inductor_builder", str(self.folder)]
        cache = self.folder / CACHE
        places = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
        threads = {"TORCHINDUCTOR_COMPILE_THREADS": str(max(2, (os.cpu_count() or 1) // SIDE_BY_SIDE))}
        done = subprocess.run(command, env={**self.environment, **places, **threads}, capture_output=True, text=True)
        if done.returncode:
            words = [line for line in done.stderr.splitlines() if line.strip()]
            ended = f"was ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
            raise ExportError(f"graph {self.name!r}: Inductor {ended}: {' '.join(words[-1:])[:LONGEST]}")

    def _pack(self, table: Mapping[str, Any]) -> None:
        cache = self.folder / CACHE
        with zipfile.ZipFile(self.directory / f"{self.name}{SUFFIX}", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(TABLE, json.dumps(table))
            file.write(self.folder / ARTIFACT, ARTIFACT)
            for path in sorted(cache.rglob("*")):
                if path.suffix in KEPT:
                    file.write(path, path.relative_to(cache))


def lower(
    exported: ExportedProgram, target: str, spares: bool = True
) -> tuple[FlatProgram, Mapping[str, int], tuple[str, ...]]:
    """`exported` as it is to be compiled, on its device; how often each rewrite was made; what stays out of FP8.

    Unless it `spares` what hurts most, all that gains by FP8 is in it, however far off that is.
    """
    if target == "cuda":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, target)
    program = simplified(flatten(exported))
    counts: dict[str, int] = {}
    kept: tuple[str, ...] = ()
    if is_for_fp8(program):
        if spares:
            inputs = drawn_like(exported.example_inputs[1]).values()
            kept = sensitive_layers(program, [torch.from_numpy(array).to(target) for array in inputs])
        program, found = quantise(program, kept)
        counts |= found
    if target == "cuda":
        torch.cuda.empty_cache()  # of what was tried
        counts |= put_in_kernels(program.module)
    return program, counts, kept


def simplified(program: FlatProgram) -> FlatProgram:
    """`program` by fewer operations, for any device; what it computes stays the same."""
    program = put_shares_into_weights(flat_maps(work_out(program)))
    put_shifts_into_biases(program.module)
    return join_layers(compose_layers(merge_ends(program)))


def put_in_kernels(module: torch.fx.GraphModule) -> Mapping[str, int]:
    """Change `module`, of a simplified program, for a GPU. Returns how often each rewrite was made."""
    from stt2v.export.epilogues import put_epilogues  # needs Triton, which comes with PyTorch for CUDA only
    from stt2v.export.kernel_pass import put_kernels

    counts = put_kernels(module) | put_epilogues(module)
    leave_biases_to_sums(module)
    return counts


def own_kernels() -> str:
    """A short hash of our kernels: an engine calls operators as they were, and brings what was compiled of them."""
    sources = sorted(Path(*kernels.__path__).glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def activation_bytes(program: FlatProgram) -> int:
    """The most bytes that tensors between operations take at once, run in order and freed after their last use.

    Views count as copies, and what the compiler fuses counts too.
    """
    last = {source: place for place, node in enumerate(program.module.graph.nodes) for source in node.all_input_nodes}
    live = peak = 0
    for place, node in enumerate(program.module.graph.nodes):
        live += _bytes(node)
        peak = max(peak, live)
        live -= sum(_bytes(source) for source in {node, *node.all_input_nodes} if last.get(source, place) == place)
    return peak


def _bytes(node: torch.fx.Node) -> int:
    value = node.meta.get("val")
    return value.nbytes if node.op == "call_function" and isinstance(value, Tensor) else 0


def compiler() -> InductorCompiler:
    """The compiler of this file."""
    return InductorCompiler()
