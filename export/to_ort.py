"""Engines for ONNX Runtime: one ONNX file each, weights shared. The runtime itself compiles when it loads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from stt2v.engine.backends import runs_here
from stt2v.engine.backends.ort import PROVIDERS, runtime
from stt2v.engine.manifest import EngineEntry
from stt2v.export.activations import activation_bytes
from stt2v.export.capture import Program
from stt2v.export.compilers import Compiled, Finish
from stt2v.export.to_onnx import halve_weights, onnx_from_program, save_onnx
from stt2v.export.weight_file import WeightFile


class OrtCompiler:
    """Writes ONNX files and `weights.bin`."""

    targets = tuple(PROVIDERS)
    fp8_targets = ()
    precisions = ("fp32", "fp16")
    joins_targets = False

    def tools(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnxscript")} | {"onnxruntime": runtime().__version__}

    def own_target(self) -> str:
        return "cpu"

    def runs_here(self, target: str) -> bool:
        return runs_here("onnxruntime", target)

    @contextmanager
    def opened(self, directory: Path, target: str) -> Iterator["OrtCompile"]:
        path = directory / "weights.bin"
        if path.exists():  # of the backend that engines of this set fall back from
            path = directory / "onnxruntime.bin"
        with WeightFile(path) as weights:
            yield OrtCompile(directory, weights)


@dataclass(frozen=True)
class OrtCompile:
    """The ONNX files of one set and the weights that they share."""

    directory: Path
    weights: WeightFile

    def __call__(self, program: Program) -> Finish:
        model = onnx_from_program(program)
        activations = activation_bytes(model)
        halve_weights(model)
        compiled = self._save(model, f"{program.spec.name}.onnx", activations)
        return lambda: compiled

    def adopt(self, source: Path, entry: EngineEntry) -> None:
        """Its weights are found again or placed anew, so that nothing is kept that no engine uses."""
        self._save(ir.load(source / entry.file), entry.file, entry.activation_bytes)

    def _save(self, model: ir.Model, file: str, activations: int) -> Compiled:
        return Compiled(file, save_onnx(model, self.directory / file, self.weights), activations)


def compiler() -> OrtCompiler:
    """The compiler of this file."""
    return OrtCompiler()
