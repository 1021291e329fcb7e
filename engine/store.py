"""Where engine sets are kept: those the package ships, and those built on this machine."""

import os
from pathlib import Path

from stt2v.engine.backends import BACKENDS, check_backend
from stt2v.engine.errors import EngineSetError

SHIPPED = Path(__file__).parent / "sets"


def home() -> Path:
    """The folder of everything stt2v keeps: `STT2V_HOME`, by default `~/.cache/stt2v`."""
    return Path(os.environ.get("STT2V_HOME") or Path.home() / ".cache" / "stt2v")


def built_set(model: str, backend: str, target: str, precision: str, width: int, height: int) -> Path:
    """Where the engine set of these properties is built."""
    return home() / "engines" / f"{model}-{width}x{height}-{backend}-{target}-{precision}"


def weight_folder(model: str) -> Path:
    """Where `stt2v pull` keeps the weights of `model`."""
    return home() / "weights" / model


def find_set(model: str, backend: str | None = None) -> Path:
    """The newest engine set of `model` built here, else the shipped one.

    Raises UsageError for an unknown backend, EngineSetError with the command that makes a set where there is none.
    """
    if backend is not None:
        check_backend(backend)
    wanted = [backend] if backend else BACKENDS  # sets for other machines may be built here, too
    patterns = [f"{model}-*x*-{name}-*/manifest.json" for name in wanted]
    built = [path.parent for pattern in patterns for path in (home() / "engines").glob(pattern)]
    if built:
        return max(built, key=lambda path: (path / "manifest.json").stat().st_mtime)
    shipped = SHIPPED / model
    if (shipped / "manifest.json").is_file() and backend in (None, "onnxruntime"):
        return shipped
    option = f" --backend {backend}" if backend else ""
    raise EngineSetError(
        f"no engine set of model {model!r} is built here; make one with `stt2v build-engines --model {model}{option}`"
    )
