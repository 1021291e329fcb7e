"""What a build has finished, kept in its staging directory: a line an engine, sealed, with the hashes of its files."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stt2v.engine.manifest import EngineEntry, FileEntry
from stt2v.engine.parity import Parity
from stt2v.engine.seal import signature

JOURNAL = ".finished"
PIECE = 1 << 20


@dataclass(frozen=True)
class Finished:
    """An engine that is whole in `directory`, among `files`, what is known of its parity, and in words its origin.

    The files of a graph are called NAME.something; others, such as weights.bin, are shared and only ever grow.
    """

    directory: Path
    entry: EngineEntry
    files: Collection[str]
    parity: tuple[Parity, ...]
    origin: str

    @property
    def own_files(self) -> set[str]:
        """Those that no other engine needs."""
        return {name for name in self.files if graph_of(name) == self.entry.spec.name}


class Journal:
    """The journal of one build in `stage`. `facts`: what all of its engines share; no other build can use them."""

    def __init__(self, stage: Path, facts: str, graphs: Collection[str]) -> None:
        self._stage = stage
        self._facts = facts
        self._graphs = graphs
        self._hashes: dict[str, _GrowingHash] = {}

    def add(self, entry: EngineEntry, parity: Iterable[Parity]) -> None:
        """Note that this engine is finished and all of it is written."""
        line = {
            "facts": self._facts,
            "entry": entry.to_json(),
            "parity": [row.to_json() for row in parity],
            "files": {name: asdict(self._file(name)) for name in self._files_of(entry.spec.name)},
        }
        text = json.dumps(line, sort_keys=True)
        with (self._stage / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(f"{signature(text)} {text}\n")

    def _files_of(self, graph: str) -> list[str]:
        names = (path.name for path in self._stage.iterdir() if path.is_file() and not path.name.startswith("."))
        others = {*self._graphs} - {graph}
        return sorted(name for name in names if graph_of(name) not in others)

    def _file(self, name: str) -> FileEntry:
        growing = self._hashes.setdefault(name, _GrowingHash(self._stage / name))
        return growing.up_to(growing.path.stat().st_size)


@dataclass
class _GrowingHash:
    """SHA-256 of the first bytes of a file, without reading any of them twice."""

    path: Path
    done: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def up_to(self, size: int) -> FileEntry:
        with self.path.open("rb") as file:
            file.seek(self.done)
            while self.done < size and (piece := file.read(min(PIECE, size - self.done))):
                self.digest.update(piece)
                self.done += len(piece)
        return FileEntry(self.digest.hexdigest(), self.done)


def graph_of(name: str) -> str:
    """The graph that a file of a set belongs to, if it is one's own."""
    return name.partition(".")[0]


def read_journal(directory: Path, facts: str) -> list[Finished]:
    """The engines that a build with the same facts has finished in `directory`, each of whose files is as it was."""
    lines = list(_lines(directory / JOURNAL, facts))
    sizes = defaultdict(set)
    for line in lines:
        for name, file in line["files"].items():
            sizes[name].add(file["bytes"])
    found = {name: _prefixes(directory / name, wanted) for name, wanted in sizes.items()}
    return [
        Finished(
            directory,
            EngineEntry.from_json(line["entry"]),
            line["files"],
            tuple(Parity.from_json(row) for row in line["parity"]),
            "was finished by a build that was stopped",
        )
        for line in lines
        if all(found[name].get(file["bytes"]) == FileEntry(**file) for name, file in line["files"].items())
    ]


def _lines(path: Path, facts: str) -> Iterator[Mapping[str, Any]]:
    """Those that this user's builds have written, whole."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        seal, _, text = line.partition(" ")
        if seal == signature(text) and (data := json.loads(text))["facts"] == facts:
            yield data


def _prefixes(path: Path, sizes: Iterable[int]) -> dict[int, FileEntry]:
    """Size -> the first so many bytes of the file, where it has as many."""
    if not path.is_file():
        return {}
    growing = _GrowingHash(path)
    return {size: growing.up_to(size) for size in sorted(sizes)}
