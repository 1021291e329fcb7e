"""What this machine can run, and why not."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stt2v.engine.backends import open_backend
from stt2v.engine.backends.ort import runtime
from stt2v.engine.engine_set import declared_model
from stt2v.engine.errors import BackendError, EngineSetError, Stt2vError
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import MODELS
from stt2v.engine.store import find_set

Mark = Literal["ok", "--", "BAD"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: as it should be, absent without being needed, or bad; and in words."""

    subject: str
    mark: Mark
    words: str


def examine() -> Iterator[Finding]:
    """Everything worth knowing about this machine. Raises nothing: what is missing is a finding."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("processor", "ok", f"{os.cpu_count()} cores, {_memory() / 2**30:.1f} GiB of memory")
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
        return Finding("gpu", "--", "no NVIDIA driver found; the onnxruntime backend runs on the processor")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("gpu", "BAD", f"nvidia-smi failed ({error}); mend the NVIDIA driver")
    return Finding("gpu", "ok", "; ".join(done.stdout.splitlines()))


def _onnxruntime() -> Finding:
    try:
        library = runtime()
    except (BackendError, ImportError) as error:
        return Finding("onnxruntime", "BAD", str(error))
    return Finding("onnxruntime", "ok", f"{library.__version__} with {', '.join(library.get_available_providers())}")


def _export() -> Finding:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("export", "--", "torch is not installed; to build engines, pip install 'stt2v[export]'")
    return Finding("export", "ok", f"torch {version}; engines can be built here")


def _engine_set(model: str) -> Finding:
    """Its manifest and its backend are tried; its files are verified when it is used, which takes long."""
    try:
        directory = find_set(model)
    except EngineSetError as error:
        return Finding(model, "--", str(error))
    try:
        manifest = read_manifest(directory)
        declared_model(directory, manifest)
        open_backend(manifest.backend, manifest.target)
    except (Stt2vError, ImportError) as error:
        return Finding(model, "BAD", f"engine set {directory} cannot be used: {error}")
    return Finding(model, "ok", f"engine set {directory}")
