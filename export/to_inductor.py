"""Engines by PyTorch's own compiler: our kernels and FP8 in the graph, weights as arguments, then Inductor."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._inductor.graph import GraphLowering
from torch.export import ExportedProgram
from torch.utils._ordered_set import OrderedSet

from stt2v.engine.backends import runs_here
from stt2v.engine.backends.inductor import ARTIFACT, DEVICES, TABLE, WEIGHTS, without_trials
from stt2v.engine.errors import ExportError
from stt2v.engine.manifest import EngineEntry
from stt2v.export.capture import Program
from stt2v.export.compilers import Compiled, Finish
from stt2v.export.flat_program import FlatProgram, flatten
from stt2v.export.fp8 import quantise
from stt2v.export.quiet import quiet
from stt2v.export.weight_file import WeightFile

KEPT = (".so", ".cubin", ".json", ".ptx")  # files of the compiler's cache that loading looks for
SUFFIX = ".inductor"


class InductorCompiler:
    """Compiles for this machine: host code is for its processor, device code for its card."""

    targets = DEVICES
    precisions = ("fp32", "fp16", "fp8")
    joins_targets = False

    def tools(self) -> dict[str, str]:
        found = {"torch": str(torch.__version__)}
        try:
            return found | {"triton": version("triton")}
        except PackageNotFoundError:
            return found

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
        flat, counts = lower(program.exported, self.target)
        inputs = [torch.zeros(t.shape, dtype=getattr(torch, t.dtype), device=self.target) for t in program.spec.inputs]
        peak = activation_bytes(flat)
        try:
            with quiet("torch._inductor", "torch._functorch"), _own_cache() as folder, without_trials():
                artifact = compile_flat(flat, inputs)
                if self.target == "cuda":
                    artifact(*flat.weights.values(), *inputs)  # our own kernels are compiled when first called
                artifact.save(path=str(folder / ARTIFACT))
                self._pack(name, folder, [self._row(weight) for weight in flat.weights.values()], bool(counts))
        except Exception as exc:  # a compiler that runs other compilers may raise anything
            reason = str(exc).strip().split("\n")[0] or type(exc).__name__
            raise ExportError(f"graph {name!r}: Inductor failed: {reason}; `--debug` shows where") from exc
        size = sum(weight.nbytes for weight in flat.weights.values())
        compiled = Compiled(f"{name}{SUFFIX}", size, peak, counts)
        return lambda: compiled

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

    def _pack(self, name: str, folder: Path, rows: Sequence[Mapping[str, Any]], kernels: bool) -> None:
        self.weights.flush()
        with zipfile.ZipFile(self.directory / f"{name}{SUFFIX}", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(TABLE, json.dumps({"kernels": kernels, "weights": rows}))
            for path in sorted(folder.rglob("*")):
                if path.name == ARTIFACT or path.suffix in KEPT:
                    file.write(path, path.relative_to(folder))


def lower(exported: ExportedProgram, target: str) -> tuple[FlatProgram, Mapping[str, int]]:
    """`exported` as it is to be compiled, on its device, and how often each rewrite was made.

    A program in bfloat16 is one in precision fp8 (see `export/precision.py`).
    """
    if target == "cuda":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, target)
    program = flatten(exported)
    counts: dict[str, int] = {}
    if any(weight.dtype == torch.bfloat16 for weight in program.weights.values()):
        program, counts["fp8_linears"] = quantise(program)
    if target == "cuda":
        from stt2v.export.kernel_pass import put_kernels  # needs Triton, which comes with PyTorch for CUDA only

        counts |= put_kernels(program.module)
    return program, counts


def compile_flat(program: FlatProgram, inputs: Sequence[Tensor]) -> Any:
    """The artifact of `program` for inputs like these: callable with weights and inputs, and saveable."""
    with torch.no_grad(), maps_apart_from_tokens():
        return torch._inductor.standalone_compile(
            program.module, [*program.weights.values(), *inputs], dynamic_shapes="from_example_inputs"
        )


@contextmanager
def maps_apart_from_tokens() -> Iterator[None]:
    """On a GPU Inductor lays channels-last only what was so when the program was traced.

    By itself it does that to every tensor of four axes that any convolution comes after. Tokens, [B, P, F, C], would
    have their pixels innermost, and each kernel that meets them would read across.
    """
    preferring = GraphLowering.find_nodes_prefer_channels_last

    def traced(graph: GraphLowering) -> OrderedSet[torch.fx.Node]:
        return OrderedSet(node for node in preferring(graph) if _lies_channels_last(node.meta.get("val")))

    with patch.object(GraphLowering, "find_nodes_prefer_channels_last", traced):
        yield


def _lies_channels_last(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    return value.device.type != "cuda" or value.is_contiguous(memory_format=torch.channels_last)


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


@contextmanager
def _own_cache() -> Iterator[Path]:
    """Inductor's caches, empty, in a folder that goes when the block is left."""
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        yield Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])


def compiler() -> InductorCompiler:
    """The compiler of this file."""
    return InductorCompiler()
