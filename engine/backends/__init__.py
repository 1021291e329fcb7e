"""The backends by name; each is imported when it is opened, so none but the one in use has to be installed."""

import importlib
from collections.abc import Callable
from types import MappingProxyType

from stt2v.engine.backends.base import Backend
from stt2v.engine.errors import BackendError, UsageError

BACKENDS = MappingProxyType(
    {
        "onnxruntime": ("ort", "open_on", "cpu"),
        "inductor": ("inductor", "open_on", "export"),
        "tensorrt-rtx": ("tensorrt", "open_rtx", "tensorrt-rtx"),
        "tensorrt": ("tensorrt", "open_tensorrt", "tensorrt"),
    }
)
"""Backend name -> (module beside this one, its function, extra that installs what it needs)."""


def check_backend(name: str) -> None:
    """Raise UsageError for the name of a backend that cannot run engines."""
    if name not in BACKENDS:
        raise UsageError(f"backend {name!r} is not known; choose one of {', '.join(sorted(BACKENDS))}")


def open_backend(name: str, device: str | None = None) -> Backend:
    """The backend `name` on `device`: "cpu", "cuda" or a card such as "sm_89"; None is the backend's own choice.

    Every function in `BACKENDS` takes a device, or nothing. Raises UsageError for an unknown name, BackendError when
    its library is not installed or cannot use the device.
    """
    check_backend(name)
    module, function, extra = BACKENDS[name]
    try:
        opener: Callable[..., Backend] = getattr(importlib.import_module(f"stt2v.engine.backends.{module}"), function)
        return opener(device) if device else opener()
    except ModuleNotFoundError as exc:
        raise BackendError(
            f"backend {name!r} needs {exc.name!r}, which is not installed; pip install 'stt2v[{extra}]'"
        ) from exc


def why_not(name: str, device: str | None = None) -> str | None:
    """Why this machine cannot open the backend `name` on `device`, in one line; None when it can."""
    try:
        open_backend(name, device)
    except (UsageError, BackendError, ImportError, OSError) as exc:  # a library that does not load raises the last two
        return str(exc)
    return None


def runs_here(name: str, device: str | None = None) -> bool:
    """Whether this machine can open the backend `name` on `device`."""
    return why_not(name, device) is None
