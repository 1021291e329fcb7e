"""How much memory loading and running an engine takes."""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # to clear_refs, see proc(5)


@dataclass
class Cost:
    """Bytes: held when a block is left and not before it, and at most above what was held before."""

    held: int = 0
    peak: int = 0


class Meter(Protocol):
    """Measures the memory that a backend computes in."""

    def measured(self) -> AbstractContextManager[Cost]:
        """What the block takes; it is known once the block is left."""
        ...


class HostMeter:
    """The resident memory of this process."""

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What the block takes; it is known once the block is left."""
        cost = Cost()
        _give_back()
        before = _status("VmRSS")
        with suppress(OSError):  # where the kernel does not let it be reset, the peak may be an older one
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
        yield cost
        cost.peak = max(0, _status("VmHWM") - before)
        _give_back()
        cost.held = max(0, _status("VmRSS") - before)


class DeviceMeter:
    """The memory of a card. free: how many of its bytes nobody uses; what is taken stays taken until it is closed."""

    def __init__(self, free: Callable[[], int]) -> None:
        self._free = free

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """What the block takes; it is known once the block is left."""
        cost = Cost()
        before = self._free()
        yield cost
        cost.held = cost.peak = max(0, before - self._free())


def _give_back() -> None:
    """Return to the system what nobody uses, as it would count otherwise."""
    with suppress(OSError, AttributeError):  # of glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", (PROCESS / "status").read_text())
    return 1024 * int(found[1]) if found else 0
