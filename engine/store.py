"""Where engine sets are kept: those the package ships, and those built on this machine."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stt2v.engine.backends import BACKENDS, check_backend, runs_here
from stt2v.engine.errors import EngineSetError
from stt2v.engine.home import home
from stt2v.engine.manifest import MANIFEST
from stt2v.engine.models import MODELS, find_model
from stt2v.engine.models.enhancers import choose_enhancer
from stt2v.engine.models.model import Enhancing, Model

SHIPPED = Path(__file__).parent / "sets"
LEFTOVER = re.compile(r"\.(.+)-[a-z0-9_]{8}")
"""The name of what a stopped build of a set left beside it."""


def store() -> Path:
    """The folder of the engine sets that are built here."""
    return home() / "engines"


def check_in_store(directory: Path) -> None:
    """Raise EngineSetError unless the set in the store is really there."""
    if directory.resolve().parent != store().resolve():
        raise EngineSetError(
            f"{directory} is a link out of the store, to {directory.resolve()}; remove it, and use --engines for sets "
            "that lie elsewhere"
        )


def built_set(model: Model, backend: str, target: str, precision: str, random: bool = False) -> Path:
    """Where the engine set of these properties is built; one with `random` weights never takes a real one's place."""
    words = [_stem(model), backend, target, precision, *_suffixes(model.enhancing, MODELS[model.name])]
    return store() / "-".join([*words, "random"] if random else words)


def _stem(model: Model) -> str:
    return f"{model.name}-{model.width}x{model.height}"


def _suffixes(enhancing: Enhancing | None, model: Model) -> list[str]:
    """What the name of a set says of its enhancer: nothing of the model's own."""
    if enhancing == model.enhancing:
        return []
    if enhancing is None:
        return ["noenhancer"]
    usual = choose_enhancer(model, enhancing.name)
    return [enhancing.name if enhancing == usual else f"{enhancing.name}-window{enhancing.window}"]


def weight_folder(model: str) -> Path:
    """Where `stt2v pull` keeps the weights of `model`."""
    return home() / "weights" / model


def leftover_of(folder: Path) -> Path | None:
    """The set that `folder` was to become before its build stopped, or None for any other folder."""
    found = LEFTOVER.fullmatch(folder.name)
    return folder.with_name(found[1]) if found else None


def leftovers(directory: Path) -> list[Path]:
    """What builds of the set `directory` that were stopped left beside it."""
    beside = directory.parent.iterdir() if directory.parent.is_dir() else ()
    return sorted(path for path in beside if leftover_of(path) == directory and path.is_dir())


def find_set(model: str, backend: str | None = None, enhancer: str | None = None) -> Path:
    """The first of `find_sets`."""
    return find_sets(model, backend, enhancer)[0]


def find_sets(model: str, backend: str | None = None, enhancer: str | None = None) -> list[Path]:
    """The engine sets of `model` built here that this machine can run, the newest first, then the shipped one.

    It has the model's own size, trained weights (a toy's are random), and the model's own enhancer unless another
    one is named; for "none" a set without any does, too. Any other set is for `--engines DIR`.

    Raises UsageError for an unknown backend or enhancer, EngineSetError with the command that makes a set where there
    is none.
    """
    if backend is not None:
        check_backend(backend)
    declared = find_model(model)
    chosen = choose_enhancer(declared, enhancer)
    fitting = [chosen] if chosen else [None, declared.enhancing]
    built = [path for name in ([backend] if backend else BACKENDS) for path in _built(declared, name, fitting)]
    sets = sorted(built, key=lambda path: (path / MANIFEST).stat().st_mtime, reverse=True)
    shipped = SHIPPED / model
    if (shipped / MANIFEST).is_file() and backend in (None, "onnxruntime") and declared.enhancing in fitting:
        sets.append(shipped)
    if sets:
        return sets
    options = f" --backend {backend}" if backend else ""
    if chosen and chosen != declared.enhancing:
        options += f" --enhancer {chosen.name}"
    raise EngineSetError(
        f"no engine set of model {model!r} is built here; make one with `stt2v build-engines --model {model}{options}`"
    )


def _built(model: Model, backend: str, fitting: Sequence[Enhancing | None]) -> Iterator[Path]:
    """The sets in the store with a fitting enhancer that run here."""
    wanted = [_suffixes(enhancing, model) for enhancing in fitting]
    stem = f"{_stem(model)}-{backend}-"
    for manifest in store().glob(f"{stem}*/{MANIFEST}"):
        target, _, rest = manifest.parent.name.removeprefix(stem).partition("-")
        _, *suffixes = rest.split("-", 1)
        if suffixes in wanted and runs_here(backend, target):
            check_in_store(manifest.parent)
            yield manifest.parent
