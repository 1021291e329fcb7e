"""The compilers by backend name; each lives in a file of its own and is imported when it is opened."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from stt2v.engine.errors import UsageError
from stt2v.export.capture import Program


@dataclass(frozen=True)
class Compiled:
    """What came of one program: its file, relative to the engine set, and what it costs in bytes."""

    file: str
    weight_bytes: int
    activation_bytes: int


Compile = Callable[[Program], Compiled]
"""Writes the engine of a program, ready to be loaded. Raises ExportError that names the graph."""


class Compiler(Protocol):
    """Makes engine files of one kind. `runs_here`: this machine can load them, which parity needs."""

    targets: tuple[str, ...]
    precisions: tuple[str, ...]
    runs_here: bool

    def tools(self) -> dict[str, str]:
        """The versions of everything that shapes an engine or its parity."""
        ...

    def opened(self, directory: Path, target: str, precision: str) -> AbstractContextManager[Compile]:
        """A compile function for the set in `directory`; what its engines share is complete once it is left."""
        ...


COMPILERS = MappingProxyType({"onnxruntime": "to_ort"})
"""Backend name -> module beside this one that has `compiler() -> Compiler`."""


def find_compiler(backend: str, target: str, precision: str) -> Compiler:
    """The compiler of `backend`. Raises UsageError when it cannot build for `target` in `precision`."""
    if backend not in COMPILERS:
        raise UsageError(f"backend {backend!r} has no compiler; choose one of {', '.join(sorted(COMPILERS))}")
    compiler: Compiler = importlib.import_module(f"stt2v.export.{COMPILERS[backend]}").compiler()
    for word, value, known in (("target", target, compiler.targets), ("precision", precision, compiler.precisions)):
        if value not in known:
            raise UsageError(f"{word} {value!r} cannot be built for {backend}; choose one of {', '.join(known)}")
    return compiler
