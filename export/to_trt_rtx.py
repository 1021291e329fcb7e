"""Engines for TensorRT-RTX, built ahead of time; the machine that builds them needs no card."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from stt2v.engine.backends import runs_here
from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.manifest import EngineEntry
from stt2v.export.capture import Program
from stt2v.export.compilers import Compiled, Finish
from stt2v.export.qdq import fp8_scales
from stt2v.export.to_onnx import onnx_from_program, save_onnx
from stt2v.export.weight_file import WeightFile

FUSED_HEAD_WIDTHS = range(16, 257)
"""Two heads or more of these widths have a fused kernel in half precision on every target; others may become products
and softmax: the heads of I2VGen-XL's image-latent encoder (4 wide), and the single head in the middle of an autoencoder
(512 wide; at toy width 32 or 8)."""

Heads = tuple[int, int, bool]
"""How many heads an attention has, their width, and whether it computes in float16 or bfloat16."""

FIGURES = {
    "activation_bytes": r"Total Activation Memory: (\d+) bytes",
    "weight_bytes": r"Total Weights Memory: (\d+) bytes",
    "builder_bytes": r"Peak Host Memory: (\d+) bytes",
}
FP8 = re.compile(r"^Name: \S*, LayerType: (?:gemm|correlation), Inputs: \[ \{[^}]*Datatype: FP8", re.MULTILINE)
FUSED = re.compile(r"^Name: \S*_mha_\S*, LayerType", re.MULTILINE)
TROUBLE = re.compile(r"^(?:INTERNAL_ERROR|ERROR): (.*)$", re.MULTILINE)
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SHOWN, LONGEST = 3, 300  # error lines in a message, letters of each


class TrtRtxCompiler:
    """One strongly typed engine a graph, the weights inside, each built by a process of its own."""

    targets = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
    fp8_targets = ("sm_89", "sm_120", "sm_121")
    precisions = ("fp16", "fp32", "fp8")
    joins_targets = True

    def tools(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnxscript", "tensorrt-rtx")}

    def own_target(self) -> str:
        target = card_here()
        if target not in self.targets:
            found = f"a card of {target}" if target else "no NVIDIA card"
            raise UsageError(f"this machine has {found}: give --target, one or more of {', '.join(self.targets)}")
        return target

    def runs_here(self, target: str) -> bool:
        return runs_here("tensorrt-rtx", target)

    @contextmanager
    def opened(self, directory: Path, target: str) -> Iterator["TrtCompile"]:
        yield TrtCompile("tensorrt_rtx", directory, target)


@dataclass(frozen=True)
class TrtCompile:
    """The engines of one set, each with its own weights inside, by the library of that name."""

    library: str
    directory: Path
    target: str

    def __call__(self, program: Program) -> Finish:
        job = _Job(program.spec.name, self.library, self.directory, self.target)
        contents = job.translate(program)
        return lambda: job.build(contents)

    def adopt(self, source: Path, entry: EngineEntry) -> None:
        os.link(source / entry.file, self.directory / entry.file)


@dataclass(frozen=True)
class _Contents:
    """What an ONNX model has that its engine is held against: attentions, layers in FP8, and what stays out of it."""

    attentions: list[Heads]
    fp8_layers: int
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One engine in the making. What lies in `folder` goes when it is built."""

    name: str
    library: str
    directory: Path
    target: str

    @property
    def folder(self) -> Path:
        return self.directory / f".{self.name}"

    def translate(self, program: Program) -> _Contents:
        """Write the program as ONNX."""
        scales, kept = fp8_scales(program.exported)
        model = onnx_from_program(program, scales)
        narrow = sum(node.op_type == "QuantizeLinear" for node in model.graph)
        contents = _Contents(heads_in(model), narrow, kept)
        self.folder.mkdir()
        with WeightFile(self.folder / "weights.bin") as weights:
            save_onnx(model, self.folder / "model.onnx", weights)
        return contents

    def build(self, contents: _Contents) -> Compiled:
        try:
            log = self._run_builder()
        finally:
            shutil.rmtree(self.folder)
        figures = {key: int(found[1]) for key, pattern in FIGURES.items() if (found := re.search(pattern, log))}
        if len(figures) < len(FIGURES):
            raise ExportError(f"graph {self.name!r}: the log of {self.library} lacks its memory figures; {_tail(log)}")
        attentions, fused = contents.attentions, len(FUSED.findall(log))
        fusible = sum(half and count > 1 and width in FUSED_HEAD_WIDTHS for count, width, half in attentions)
        if self._is_rtx and fused < fusible:
            raise ExportError(
                f"graph {self.name!r}: TensorRT-RTX fused {fused} of {fusible} attentions, expected all; they would be "
                "slow and take much memory, so write them as scaled dot-product attention that it has a kernel for"
            )
        notes = {"attentions": len(attentions), "fused_attentions": fused, "builder_bytes": figures["builder_bytes"]}
        if contents.fp8_layers:
            notes |= {"fp8_layers": contents.fp8_layers, "fp8_kernels": len(FP8.findall(log))}
        return Compiled(self._engine.name, figures["weight_bytes"], figures["activation_bytes"], notes, contents.kept)

    @property
    def _is_rtx(self) -> bool:
        return self.library == "tensorrt_rtx"

    @property
    def _engine(self) -> Path:
        return self.directory / f"{self.name}.engine"

    def _run_builder(self) -> str:
        """The log of a build that has succeeded."""
        command = [sys.executable, "-P", "-m", "stt2v.export.trt_builder", self.library]
        targets = self.target.split("+") if self._is_rtx else []
        arguments = [str(self.folder / "model.onnx"), str(self._engine), *targets]
        path = self.folder / "log.txt"
        with path.open("wb") as file:
            status = subprocess.run([*command, *arguments], stdout=file, stderr=file).returncode
        log = path.read_text(encoding="utf-8", errors="replace")
        if status:
            reason = f"was ended by signal {-status}" if status < 0 else "failed"
            if -status == signal.SIGKILL:
                reason += ", most likely for lack of memory (it takes about four times the weights)"
            raise ExportError(f"graph {self.name!r}: {self.library} {reason} for {self.target}; {_tail(log)}")
        return log


def heads_in(model: ir.Model) -> list[Heads]:
    """Of every attention of an ONNX model."""
    queries = [node.inputs[0] for node in model.graph if node.op_type == "Attention"]
    shaped = [(query.shape.numpy(), query.dtype) for query in queries if query is not None and query.shape is not None]
    return [(count, width, dtype in HALVES) for (_, count, _, width), dtype in shaped]


def _tail(log: str) -> str:
    """The last errors in a log, or else its last lines, on one line."""
    lines = TROUBLE.findall(log) or [line for line in log.splitlines() if line.strip()]
    return "its log ends: " + " | ".join(line.strip()[:LONGEST] for line in lines[-SHOWN:])


def card_here() -> str | None:
    """The target that the first card of this machine is."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return None
    done = subprocess.run(query, capture_output=True, text=True)
    found = re.match(r"(\d+)\.(\d)", done.stdout)
    return f"sm_{found[1]}{found[2]}" if found else None


def need_library(backend: str, library: str) -> None:
    """Raise ExportError unless the library of `backend` is installed."""
    if importlib.util.find_spec(library) is None:
        raise ExportError(
            f"backend {backend!r} needs {library}, which is not installed; pip install 'stt2v[{backend}]'"
        )


def compiler() -> TrtRtxCompiler:
    """The compiler of this file. Raises ExportError when TensorRT-RTX is not installed."""
    need_library("tensorrt-rtx", "tensorrt_rtx")
    return TrtRtxCompiler()
