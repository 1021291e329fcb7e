"""An engine set opened for use: engines by graph name, loaded when they first run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from stt2v.engine.backends.base import Backend, Closing, Engine, Value, Values
from stt2v.engine.backends.residency import Needs
from stt2v.engine.certificate import Place, opened_backends
from stt2v.engine.errors import BackendError, EngineSetError, UsageError
from stt2v.engine.inventory import mark_used
from stt2v.engine.manifest import MANIFEST, REBUILD, Manifest
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.memory_plan import engine_needs
from stt2v.engine.models.model import Model
from stt2v.engine.parallel.group import SpreadEngines
from stt2v.engine.spec import EngineSpec
from stt2v.engine.trust import admit

TOKENIZER = "_tokenizer.json"


class LateEngine(Closing):
    """An engine that is loaded when it first runs; what it takes and gives is known before."""

    def __init__(self, spec: EngineSpec, load: Callable[[], Engine]) -> None:
        self.spec = spec
        self._load: Callable[[], Engine] | None = load
        self._engine: Engine | None = None

    def run(self, inputs: Values) -> dict[str, Value]:
        if self._load is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; ask its set for it again")
        if self._engine is None:
            self._engine = self._load()
        return self._engine.run(inputs)

    def close(self) -> None:
        self._load = None
        if self._engine is not None:
            self._engine.close()


class EngineSet(Mapping[str, Engine], Closing):
    """The engines of one directory, verified before anything in it is loaded."""

    def __init__(self, directory: Path, manifest: Manifest, backends: Mapping[Place, Backend]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.model = declared_model(directory, manifest)
        self.tokenizers = {
            name.removesuffix(TOKENIZER): Tokenizer(directory / name)
            for name in manifest.files
            if name.endswith(TOKENIZER)
        }
        self._backends = backends
        self._entries = {entry.spec.name: entry for entry in manifest.engines}
        self._asked: dict[str, Engine] = {}

    @classmethod
    def open(cls, directory: Path, backend: str | None = None, trust: bool = False, vram: int | None = None) -> Self:
        """Open the set in `directory`, which has to be for `backend` where one is named.

        With `trust` it may be of any origin; with `vram` its engines stay within so many bytes of the card. Raises
        UsageError for a set of another backend or that cannot keep to it, EngineSetError when a file is missing,
        changed or foreign, BackendError when it cannot run here.
        """
        manifest = admit(directory, trust)
        if backend not in (None, manifest.backend):
            raise UsageError(
                f"engine set {directory} is for backend {manifest.backend!r}, expected {backend!r}; leave --backend "
                "out or give another set"
            )
        backends = opened_backends(manifest)
        if vram is not None:
            for each in backends.values():
                each.limit(vram)
        opened = cls(directory, manifest, backends)
        mark_used(directory)
        return opened

    def __getitem__(self, name: str) -> Engine:
        entry = self._entries[name]
        load = partial(self._backends[entry.backend, entry.target].load, self.directory / entry.file, entry.spec)
        return self._asked.setdefault(name, LateEngine(entry.spec, load))  # the same for threads that ask at once

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def expect(self, names: Iterable[str]) -> None:
        """Engines are going to be first used in this order; those of a card and their weights come meanwhile."""
        for place, backend in self._backends.items():
            entries = [self._entries[name] for name in names if name in self._entries]
            backend.expect([(self.directory / e.file, e.spec) for e in entries if (e.backend, e.target) == place])

    @cached_property
    def needs(self) -> Mapping[str, Needs]:
        """What engines take of a card whose weights come and go there."""
        return engine_needs(self.directory, self.manifest)

    @property
    def budget(self) -> int | None:
        """Bytes of a card for weights that come and go and what runs beside them; None where they do not."""
        return min((b.budget for b in self._backends.values() if b.budget is not None), default=None)

    def refit(self) -> bool:
        """Memory ran out: count on what there is now. Returns whether less is taken than before."""
        shrunk = [backend.refit() for backend in self._backends.values()]  # all of them
        return any(shrunk)

    def unload(self, names: Iterable[str]) -> None:
        """Give back the memory of those engines; each is loaded again when it is asked for and run."""
        for name in names:
            if engine := self._asked.pop(name, None):
                engine.close()

    def close(self) -> None:
        self.expect(())  # what was loaded and never asked for goes, too
        self.unload(list(self._asked))


@dataclass(frozen=True)
class Without(Mapping[str, Engine]):
    """The engines of a set but for those that are `hidden`."""

    engines: Mapping[str, Engine]
    hidden: frozenset[str]

    def __getitem__(self, name: str) -> Engine:
        if name in self.hidden:
            raise KeyError(name)
        return self.engines[name]

    def __contains__(self, name: object) -> bool:
        return name not in self.hidden and name in self.engines

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.engines if name not in self.hidden)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def set_of(engines: Mapping[str, Engine]) -> EngineSet | None:
    """The set that these engines are of, if they are a set's."""
    if isinstance(engines, Without | SpreadEngines):
        return set_of(engines.engines)
    return engines if isinstance(engines, EngineSet) else None


def declared_model(directory: Path, manifest: Manifest) -> Model:
    """The model that the set in `directory` is of. Raises EngineSetError for a declaration of another stt2v."""
    try:
        return Model.from_json(manifest.model)
    except (KeyError, TypeError, ValueError) as exc:
        raise EngineSetError(
            f"{directory / MANIFEST}: declares a model that this stt2v does not understand (built by "
            f"{manifest.stt2v}); {REBUILD}"
        ) from exc
