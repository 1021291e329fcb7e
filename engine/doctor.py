"""What this machine can run, and why not."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from stt2v.engine.backends.ort import runtime
from stt2v.engine.errors import BackendError, EngineSetError
from stt2v.engine.models import MODELS
from stt2v.engine.store import find_set


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is as it should be, and in words."""

    subject: str
    good: bool
    words: str


def examine() -> Iterator[Finding]:
    """Everything worth knowing about this machine. Raises nothing: what is missing is a finding."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("processor", True, f"{os.cpu_count()} cores, {_memory() / 2**30:.1f} GiB of memory")
    yield _gpu()
    yield _onnxruntime()
    yield _export()
    for model in MODELS:
        yield _engine_set(model)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return Finding("gpu", True, "no NVIDIA driver found; the onnxruntime backend runs on the processor")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", False, f"nvidia-smi failed ({error}); mend the NVIDIA driver")
    return Finding("gpu", True, "; ".join(done.stdout.splitlines()))


def _onnxruntime() -> Finding:
    try:
        library = runtime()
    except (BackendError, ImportError) as error:
        return Finding("onnxruntime", False, str(error))
    return Finding("onnxruntime", True, f"{library.__version__} with {', '.join(library.get_available_providers())}")


def _export() -> Finding:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("export", True, "torch is not installed; to build engines, pip install 'stt2v[export]'")
    return Finding("export", True, f"torch {version}; engines can be built here")


def _engine_set(model: str) -> Finding:
    try:
        return Finding(model, True, f"engine set {find_set(model)}")
    except EngineSetError as error:
        return Finding(model, True, str(error))
