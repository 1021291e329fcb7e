"""The compilers by backend name; each lives in a file of its own and is imported when it is opened."""

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from stt2v.engine.errors import UsageError
from stt2v.engine.manifest import EngineEntry
from stt2v.export.capture import Program


@dataclass(frozen=True)
class Compiled:
    """What came of one program: its file, relative to the set, what it costs in bytes, and more for the manifest."""

    file: str
    weight_bytes: int
    activation_bytes: int
    notes: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()


Finish = Callable[[], Compiled]
"""What is left to do once the program is no longer needed, so that its memory can be used for it."""


class Compile(Protocol):
    """Makes the engines of one set. The files of a graph are called NAME.something; what others share only grows."""

    def __call__(self, program: Program) -> Finish:
        """Begin the engine of a program; when it is finished, it is ready to be loaded.

        Both raise ExportError that names the graph. What is left may be done in another thread.
        """
        ...

    def adopt(self, source: Path, entry: EngineEntry) -> None:
        """Take over the engine that the directory `source` holds whole."""
        ...


class Compiler(Protocol):
    """Makes engine files of one kind, in the first of its precisions by default.

    `joins_targets`: one engine can be for several of its targets.
    """

    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    joins_targets: bool

    @property
    def fp8_targets(self) -> tuple[str, ...]:
        """Those of its targets that compute in FP8."""
        ...

    def tools(self) -> dict[str, str]:
        """The versions of everything that shapes an engine or its parity."""
        ...

    def own_target(self) -> str:
        """The target that this machine is. Raises UsageError when it is none of them."""
        ...

    def runs_here(self, target: str) -> bool:
        """Whether this machine can load engines for `target`, which parity needs."""
        ...

    def opened(self, directory: Path, target: str) -> AbstractContextManager[Compile]:
        """A compile function for the set in `directory`; what its engines share is complete once it is left."""
        ...


COMPILERS = MappingProxyType(
    {"onnxruntime": "to_ort", "inductor": "to_inductor", "tensorrt-rtx": "to_trt_rtx", "tensorrt": "to_trt"}
)
"""Backend name -> module beside this one that has `compiler() -> Compiler`."""


def compiler_of(backend: str) -> Compiler:
    """The compiler of `backend`. Raises UsageError when there is none, ExportError when its library is missing."""
    if backend not in COMPILERS:
        raise UsageError(f"backend {backend!r} has no compiler; choose one of {', '.join(sorted(COMPILERS))}")
    compiler: Compiler = importlib.import_module(f"stt2v.export.{COMPILERS[backend]}").compiler()
    return compiler


def find_compiler(backend: str, target: str, precision: str) -> Compiler:
    """The compiler of `backend`. Raises UsageError when it cannot build for `target` in `precision`.

    Several targets joined by "+" ask for engines that run on each of them, where the compiler can make such.
    """
    compiler = compiler_of(backend)
    targets = target.split("+") if compiler.joins_targets else [target]
    if len(set(targets)) < len(targets):
        raise UsageError(f"target {target!r} names one twice; name each once")
    asked = [("target", part, compiler.targets) for part in targets]
    for word, value, known in (*asked, ("precision", precision, compiler.precisions)):
        if value not in known:
            raise UsageError(f"{word} {value!r} cannot be built for {backend}; choose one of {', '.join(known)}")
    lacking = [part for part in targets if part not in compiler.fp8_targets]
    if precision == "fp8" and lacking:
        able = f"one of {', '.join(compiler.fp8_targets)}, or " if compiler.fp8_targets else ""
        raise UsageError(f"target {lacking[0]!r} has no FP8; choose {able}another precision")
    return compiler
