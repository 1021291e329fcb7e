"""A process of a group but the first: it runs engines when it is told to, and ends with the process that began it."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from stt2v.engine import errors
from stt2v.engine.backends.base import Values
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import Stt2vError
from stt2v.engine.parallel.wire import Meeting, Wire
from stt2v.engine.stages.denoise import fused_name
from stt2v.engine.typed_json import read_as


@dataclass(frozen=True)
class Membership:
    """What a process needs to know to be number `rank` of a group."""

    directory: str
    trust: bool
    rank: int
    size: int
    port: int
    cards: bool

    def to_text(self) -> str:
        """As an argument of `main`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse. Raises TypeError, ValueError."""
        membership: Self = read_as(cls, json.loads(text))
        return membership


def main() -> None:
    """Be a process of a group, until it is told to leave or the first process ends, which closes our stdin."""
    membership = Membership.from_text(sys.argv[1])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    with (
        _told_of_errors(membership.rank),
        EngineSet.open(Path(membership.directory), trust=membership.trust) as engines,
    ):
        meeting = Meeting(membership.port)
        meeting.arrive(membership.rank)
        with Wire(meeting, membership.rank, membership.size, membership.cards) as wire:
            serve(engines, wire)


def serve(engines: EngineSet, wire: Wire) -> None:
    """Run engines as process 0 says, until it names none."""
    kept: dict[str, Values] = {}
    while True:
        head = wire.head(0)
        if "expect" in head:
            engines.expect(head["expect"])
            continue
        values, name = wire.values(0, head), head["engine"]
        if name is None:
            return
        if head["kept"] is not None:
            kept[name] = {each: values.pop(each) for each in head["kept"]}
        engines.unload({fused_name(name)} - {name})  # who takes a step by halves may have no memory for both
        try:
            outputs = engines[name].run({**values, **kept[name]})
            wire.settle()
        except Stt2vError as error:
            wire.send(0, {"error": type(error).__name__, "message": str(error)}, {})
        else:
            wire.send(0, {"error": None}, outputs)


def raised(kind: str, message: str) -> Stt2vError:
    """The error of another process as one of ours."""
    error: Stt2vError = getattr(errors, kind)(message)
    return error


@contextmanager
def _told_of_errors(rank: int) -> Iterator[None]:
    """End with one line for what was raised here; a first process that is gone has said why."""
    try:
        yield
    except Stt2vError as error:
        sys.stderr.write(f"rank {rank}: {error}\n")
        sys.exit(1)


def _end_with_stdin() -> None:
    os.read(0, 1)  # not through `sys.stdin`, which Python cannot close while a thread reads it
    os._exit(1)


if __name__ == "__main__":
    main()
