"""Engines for TensorRT, built on the card that is to run them.

Unverified: TensorRT's builder is not on the package index, so this half was never run. The runtime half is held against
the names of the real library (`engine/backends/tensorrt.py`); what TensorRT-RTX has in common with it, the network, the
parser and the log, is the same code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from stt2v.engine.backends import runs_here
from stt2v.engine.errors import UsageError
from stt2v.export.to_trt_rtx import TrtCompile, card_here, need_library


class TrtCompiler:
    """One strongly typed engine a graph, the weights inside, each built by a process of its own."""

    targets = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
    fp8_targets = ()
    precisions = ("fp16", "fp32")
    joins_targets = False

    def tools(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnxscript", "tensorrt")}

    def own_target(self) -> str:
        target = card_here()
        if target not in self.targets:
            found = f"a card of {target}" if target else "no NVIDIA card"
            raise UsageError(f"this machine has {found}: tensorrt builds on the card itself, {', '.join(self.targets)}")
        return target

    def runs_here(self, target: str) -> bool:
        return runs_here("tensorrt", target)

    @contextmanager
    def opened(self, directory: Path, target: str) -> Iterator[TrtCompile]:
        if target != self.own_target():
            raise UsageError(f"target is {target}, the card here is {self.own_target()}; build where the card is")
        yield TrtCompile("tensorrt", directory, target)


def compiler() -> TrtCompiler:
    """The compiler of this file. Raises ExportError when TensorRT is not installed."""
    need_library("tensorrt", "tensorrt")
    return TrtCompiler()
