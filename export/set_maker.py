"""An engine set in the making: engines are taken over or built, one after the other, and sealed at the end."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from stt2v.engine.errors import BackendError, ExportError, StoppedError
from stt2v.engine.hashes import known_hashes
from stt2v.engine.manifest import MANIFEST, PARITY, EngineEntry, Manifest, file_entries, write_manifest
from stt2v.engine.parity import Parity, write_parity
from stt2v.engine.seal import seal
from stt2v.export.engine_builder import EngineBuilder
from stt2v.export.fallback import Rung, Workshop
from stt2v.export.jobs import Result, in_turn
from stt2v.export.journal import Finished, Journal
from stt2v.export.staleness import Decision

GO_ON = "the same command goes on from there"

Made = tuple[EngineEntry, tuple[Parity, ...]]
"""An engine that is there, and its parity as far as it is known."""


@dataclass(frozen=True)
class Outcome:
    """What became of one graph, and why."""

    graph: str
    action: Literal["reused", "built", "failed"]
    reason: str
    seconds: float = 0.0


class SetMaker:
    """The set that grows in the workshop's directory.

    refers: every engine gets a reference; certifies: it is also run once it is there, and falls back when it is bad.
    """

    def __init__(
        self, builder: EngineBuilder, workshop: Workshop, journal: Journal, refers: bool, certifies: bool
    ) -> None:
        self._builder, self._workshop, self._journal = builder, workshop, journal
        self._stage = workshop.stage
        self._refers, self._certifies = refers, certifies
        self._entries: dict[str, EngineEntry] = {}
        self._parity: dict[str, tuple[Parity, ...]] = {}
        self.outcomes: dict[str, Outcome] = {}

    def adopt(self, decisions: Iterable[Decision]) -> None:
        """Take over the engines that are finished elsewhere."""
        for decision in decisions:
            if finished := decision.finished:
                self._keep(decision, "reused", partial(self._adopted, finished))

    def build(self, decisions: Collection[Decision], jobs: int) -> None:
        """Build the others; one that fails does not stop the rest."""
        by_name = {decision.graph: decision for decision in decisions}
        rung = Rung.of(self._builder.wanted)
        begin = partial(self._builder.begin, rung=rung, compile_program=self._workshop.compile_for(rung))
        tasks = ((name, partial(begin, name)) for name in by_name)
        for name, result in in_turn(tasks, jobs):
            self._keep(by_name[name], "built", partial(_built, result))

    @property
    def finished(self) -> int:
        """How many engines are there."""
        return len(self._entries)

    @property
    def wanted(self) -> int:
        """How many engines there will be."""
        return len(self._builder.graphs)

    def check_complete(self) -> None:
        """Raise ExportError when an engine failed, StoppedError when some were left out."""
        failed = [outcome.reason for outcome in self.outcomes.values() if outcome.action == "failed"]
        if failed and not self.finished:
            raise ExportError("; ".join(failed))
        if failed:
            kept = f"{self.finished} are kept and {GO_ON}"
            raise ExportError(f"{len(failed)} of {self.wanted} engines failed, {kept}: {'; '.join(failed)}")
        if self.finished < self.wanted:
            raise StoppedError(f"{self.finished} of {self.wanted} engines are finished; {GO_ON}")

    def finish(self, files: Mapping[str, str]) -> tuple[Manifest, tuple[Parity, ...]]:
        """Write and seal what stands beside the engines."""
        for name, text in files.items():
            (self._stage / name).write_text(text, encoding="utf-8")
        names = [path.name for path in self._stage.iterdir() if path.is_file() and not path.name.startswith(".")]
        engines = tuple(self._entries[name] for name in self._builder.graphs)
        with known_hashes(self._stage) as hash_of:  # so that the first run need not read gigabytes for them
            entries = file_entries(self._stage, names, hash_of)
        manifest = replace(self._builder.wanted, engines=engines, files=entries)
        write_manifest(self._stage, manifest)
        seal(self._stage, MANIFEST)
        parity = tuple(row for name in self._builder.graphs for row in self._parity[name])
        if parity:
            write_parity(self._stage, parity)
            seal(self._stage, PARITY)
        return manifest, parity

    def _adopted(self, finished: Finished) -> Made:
        self._workshop.compile_for(Rung.of(finished.entry)).adopt(finished.directory, finished.entry)
        for name in finished.own_files - {finished.entry.file}:
            os.link(finished.directory / name, self._stage / name)
        return finished.entry, finished.parity

    def _keep(
        self,
        decision: Decision,
        action: Literal["reused", "built"],
        make: Callable[[], Made],
    ) -> None:
        """Write an engine into the journal once it is there and good; or say why it is not."""
        name, progress = decision.graph, self._builder.progress
        try:
            entry, parity = make()
            if self._refers:
                self._builder.refer(entry, self._stage)
            if self._certifies and not parity:
                entry, row = self._builder.settle(entry, self._workshop)
                parity = (row,)
        except (ExportError, BackendError) as error:
            self.outcomes[name] = Outcome(name, "failed", str(error))
            progress.note(f"failed: {error}")
            progress.advance("build", graph=name, phase="failed")
            return
        self._journal.add(entry, parity)
        self._entries[name], self._parity[name] = entry, parity
        self.outcomes[name] = Outcome(name, action, decision.reason, entry.seconds if action == "built" else 0.0)
        progress.advance("build", graph=name, phase=action, seconds=self.outcomes[name].seconds)


def _built(result: Result[EngineEntry]) -> Made:
    return result(), ()
