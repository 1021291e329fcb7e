"""The seam between the loop and the compiled engines.

A *value* is whatever `numpy.asarray` accepts. Host arrays are values; a GPU backend may return values that stay on
the device, and `numpy.asarray` copies them to the host. The loop hands the values of one engine to the next without
looking inside, so nothing leaves the device that need not.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.memory import Meter
from stt2v.engine.errors import UsageError
from stt2v.engine.spec import EngineSpec


class DeviceValue(Protocol):
    """A tensor that stays on a device until it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...


Value = npt.NDArray[Any] | DeviceValue
Values = Mapping[str, Value]
Array = npt.NDArray[np.float32]
Frames = npt.NDArray[np.uint8]


class Engine(Protocol):
    """One compiled graph, loaded and ready."""

    spec: EngineSpec

    def run(self, inputs: Values) -> dict[str, Value]:
        """Run once. Outputs stay valid until the engine is closed; they are never overwritten by a later run.

        Raises: BackendError for wrong names, shapes or a failure inside; OutOfMemoryError when memory ran out.
        """
        ...

    def close(self) -> None:
        """Give back memory. The engine cannot run afterwards."""
        ...


class Backend(Protocol):
    """Loads engine files of one kind.

    `hardware` is what its engines run on, such that what was measured on one holds for another of that name; `meter`
    measures the memory of that.
    """

    name: str
    meter: Meter

    @property
    def hardware(self) -> str: ...

    def load(self, path: Path, spec: EngineSpec) -> Engine:
        """Load the compiled file at `path`. Raises BackendError when it cannot run on this machine."""
        ...

    def expect(self, order: Iterable[tuple[Path, EngineSpec]]) -> None:
        """Engines are going to be first used in this order, so these and what they need can come while others run.

        What was loaded of others ahead of its use is given up; none are expected when a set is closed.
        """
        ...

    @property
    def budget(self) -> int | None:
        """Bytes of a card for weights that come and go and for what runs beside them; None where they do not."""
        ...

    def limit(self, nbytes: int) -> None:
        """Stay within so much memory of the card from now on. Raises UsageError where that cannot be kept to."""
        ...

    def refit(self) -> bool:
        """Memory ran out: count on what the card has free now. Returns whether less is taken of it than before."""
        ...


class WholeEngines:
    """The half of a backend whose engines hold their weights, as long as they are loaded."""

    name: str
    budget: int | None = None

    def expect(self, order: Iterable[tuple[Path, EngineSpec]]) -> None:
        """See `Backend`: engines are loaded whole when they are first used."""

    def limit(self, nbytes: int) -> None:
        """See `Backend`: what a library takes for an engine is its own affair."""
        raise UsageError(f"--vram is given, backend {self.name!r} cannot keep to it; leave it out or use inductor")

    def refit(self) -> bool:
        """See `Backend`: nothing of what is loaded can go."""
        return False


class Closing:
    """Context-manager half of everything that has `close`."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
