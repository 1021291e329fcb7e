"""What of this machine shapes the bits of a video beside its settings and its engines."""

from pathlib import Path
from typing import Final

from stt2v.engine.machine import installed, processors

COMPUTING: Final = ("numpy", "pillow", "av")
BY_BACKEND: Final = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
    "inductor": ("torch", "triton"),
}
"""The distributions that compute frames, for all backends and for each of them."""


def environment(backend: str) -> dict[str, str | int]:
    """The versions of what computes, the processor, and how many of its threads there are."""
    names = (*COMPUTING, *BY_BACKEND.get(backend, ()))
    versions = {name: found for name in names if (found := installed(name))}
    return {**versions, "processor": _processor(), "threads": processors()}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
