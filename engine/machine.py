"""What this machine has: processors, memory, disk, graphics cards, Python distributions."""

import csv
import importlib.metadata
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUP_LIMIT, CGROUP_SHARE = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Card:
    """A graphics card; `target` is its compute capability as targets are written, such as sm_89."""

    name: str
    bytes: int
    driver: str
    target: str


def host_memory() -> int:
    """Bytes of memory that programs here can have: the machine's, or the container's where it has less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no such limit, or "max"
        memory = min(memory, int(CGROUP_LIMIT.read_text()))
    return memory


def processors() -> int:
    """How many processors this program can keep busy: those it may run on, or the container's share of their time.

    With more threads than that, a container is stopped for the rest of each period once they have used its share up.
    """
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no such limit, or "max"
        quota, period = map(int, CGROUP_SHARE.read_text().split())
        count = min(count, max(1, -(-quota // period)))
    return count


def resident_memory() -> int:
    """Bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """The most bytes that this process has held; `getrusage` would count in what its parent held when it began."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


def free_disk(path: Path) -> int:
    """Bytes that can be written at `path`, which need not exist yet."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def used_disk(folder: Path) -> int:
    """Bytes of the files below `folder`, without those that go meanwhile; 0 where there is no folder."""
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(Path(place, name).lstat().st_size)
    return sum(sizes)


def cards() -> tuple[Card, ...]:
    """The NVIDIA cards of this machine; () without a driver. Raises OSError when the driver does not answer."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    if shutil.which(query[0]) is None:
        return ()
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
        return tuple(Card(n, int(mib) << 20, driver, f"sm_{cap.replace('.', '')}") for n, mib, driver, cap in rows)
    except (subprocess.SubprocessError, ValueError) as error:
        raise OSError(f"nvidia-smi failed ({error}); mend the NVIDIA driver") from error


def installed(distribution: str) -> str | None:
    """The version of a Python distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
