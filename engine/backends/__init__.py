"""The backends by name; each is imported when it is opened, so none but the one in use has to be installed."""

import importlib
from types import MappingProxyType

from stt2v.engine.backends.base import Backend
from stt2v.engine.errors import BackendError, UsageError

BACKENDS = MappingProxyType({"onnxruntime": ("ort", "cpu")})
"""Backend name -> (module beside this one, extra that installs what it needs)."""

BUILT_ONLY = ("tensorrt-rtx",)


def check_backend(name: str) -> None:
    """Raise UsageError for the name of a backend that cannot run engines."""
    if name in BUILT_ONLY:
        raise UsageError(f"{name} sets can be built here but not run yet; choose one of {', '.join(sorted(BACKENDS))}")
    if name not in BACKENDS:
        raise UsageError(f"backend {name!r} is not known; choose one of {', '.join(sorted(BACKENDS))}")


def open_backend(name: str, device: str = "cpu") -> Backend:
    """The backend `name` on `device` ("cpu" or "cuda").

    Every module of a backend has `open_on(device) -> Backend`. Raises UsageError for an unknown name, BackendError
    when its library is not installed or cannot use the device.
    """
    check_backend(name)
    module, extra = BACKENDS[name]
    try:
        opened: Backend = importlib.import_module(f"stt2v.engine.backends.{module}").open_on(device)
    except ModuleNotFoundError as exc:
        raise BackendError(
            f"backend {name!r} needs {exc.name!r}, which is not installed; pip install 'stt2v[{extra}]'"
        ) from exc
    return opened


def runs_here(name: str, device: str) -> bool:
    """Whether this machine can open the backend `name` on `device`."""
    try:
        open_backend(name, device)
    except (UsageError, BackendError, ImportError):
        return False
    return True
