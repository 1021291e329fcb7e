"""Engines for ONNX Runtime: one ONNX file each, weights shared. The runtime itself compiles when it loads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from stt2v.engine.backends import runs_here
from stt2v.engine.backends.ort import PROVIDERS, runtime
from stt2v.export.activations import activation_bytes
from stt2v.export.capture import Program
from stt2v.export.compilers import Compile, Compiled, Finish
from stt2v.export.to_onnx import onnx_from_program, save_onnx
from stt2v.export.weight_file import WeightFile


class OrtCompiler:
    """Writes ONNX files and `weights.bin`."""

    targets = tuple(PROVIDERS)
    precisions = ("fp32", "fp16")
    joins_targets = False

    def tools(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnxscript")} | {"onnxruntime": runtime().__version__}

    def own_target(self) -> str:
        return "cpu"

    def runs_here(self, target: str) -> bool:
        return runs_here("onnxruntime", target)

    @contextmanager
    def opened(self, directory: Path, target: str, precision: str) -> Iterator[Compile]:
        with WeightFile(directory / "weights.bin") as weights:

            def compile_program(program: Program) -> Finish:
                model = onnx_from_program(program)
                file = f"{program.spec.name}.onnx"
                compiled = Compiled(file, save_onnx(model, directory / file, weights), activation_bytes(model))
                return lambda: compiled

            yield compile_program


def compiler() -> OrtCompiler:
    """The compiler of this file."""
    return OrtCompiler()
