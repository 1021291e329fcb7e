"""What an engine falls back to when it is too far off its reference: the next precision, then another backend."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stt2v.engine.backends import runs_here
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.export.compilers import Compile, compiler_of

DESCENDING = ("fp8", "fp16", "fp32")
LAST = "onnxruntime"


@dataclass(frozen=True)
class Rung:
    """A way to make an engine."""

    backend: str
    target: str
    precision: str

    @classmethod
    def of(cls, made: Manifest | EngineEntry) -> "Rung":
        """The way in which a set is to be made, or an engine was."""
        return cls(made.backend, made.target, made.precision)

    def __str__(self) -> str:
        return f"{self.precision} on {self.backend}"

    def below(self) -> Iterator["Rung"]:
        """What to try when this is not good enough, the best first."""
        precisions = compiler_of(self.backend).precisions
        for precision in DESCENDING[DESCENDING.index(self.precision) + 1 :]:
            if precision in precisions:
                yield Rung(self.backend, self.target, precision)
        if self.backend != LAST:
            yield Rung(LAST, "cuda" if runs_here(LAST, "cuda") else "cpu", "fp32")


class Workshop:
    """The compilers of one set in the making, in `stage`, each opened when it is first needed.

    What the engines of a backend share is complete once this is left.
    """

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self._open: dict[str, Compile] = {}
        self._stack = ExitStack()

    def compile_for(self, rung: Rung) -> Compile:
        """The compile function. Raises UsageError and ExportError when there is none."""
        if rung.backend not in self._open:
            opened = compiler_of(rung.backend).opened(self.stage, rung.target)
            self._open[rung.backend] = self._stack.enter_context(opened)
        return self._open[rung.backend]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
