"""The first process of a group: it begins the others, deals calls out to them and itself, and notices their end."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from stt2v.engine.backends.base import Closing, Value, Values
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import BackendError, StoppedError
from stt2v.engine.parallel.group import Call, Outputs
from stt2v.engine.parallel.member import Membership, raised
from stt2v.engine.parallel.wire import Meeting, Wire, card_count, check_cards

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL, DYING = 0.05, 10.0  # seconds: between two looks at a process; until one that has closed its end is gone


@dataclass
class _Member:
    """Another process, and for each engine the inputs that it keeps."""

    rank: int
    process: subprocess.Popen[bytes]
    kept: dict[str, Values] = field(default_factory=dict)


class Processes(Closing):
    """A group of `size` processes on this machine, each with the engines of one set; it owns all but this one.

    Raises UsageError for more processes than cards, BackendError when one does not begin.
    """

    def __init__(self, engines: EngineSet, size: int, trust: bool) -> None:
        manifest = engines.manifest
        check_cards(size, manifest.target)
        on_cards = manifest.target != "cpu"
        self.size = size
        self._under_way = False
        self._waiter = ThreadPoolExecutor(1)
        direct = on_cards and manifest.backend == "inductor"  # the only backend whose values are PyTorch's
        with Meeting() as meeting:
            self._members = [
                _Member(
                    rank, _begun(Membership(str(engines.directory), trust, rank, size, meeting.port, direct), on_cards)
                )
                for rank in range(1, size)
            ]
            try:
                for member in self._members:
                    _await(member, meeting, size)
                self._wire = Wire(meeting, 0, size, direct)
            except BaseException:
                self._end()
                raise

    def run_all(self, calls: Iterable[Call]) -> Iterator[Outputs]:
        """See `Group`. Round by round: nothing is under way while the caller makes a call or takes a result."""
        rest = iter(calls)
        while together := list(itertools.islice(rest, self.size)):
            yield from self._round(together)

    def expect(self, names: Iterable[str]) -> None:
        """See `Group`. What a process cannot load of them it says when it is to run it."""
        head = {"expect": [*names]}
        for member in self._members:
            with self._noticing(member):
                self._wire.send(member.rank, head, {})

    def close(self) -> None:
        if all(self._told_to_end(member) for member in self._members):
            self._wire.close()  # while they close theirs: NCCL may wait for each other's
            self._end()
        else:
            self._end()
            self._wire.abandon()
        self._waiter.shutdown()

    def _told_to_end(self, member: _Member) -> bool:
        """Whether a process hears that it is to end; where something is under way they are past listening."""
        if self._under_way:
            return False
        try:
            self._wire.send(member.rank, {"engine": None}, {})
        except RuntimeError:  # it has ended before
            return False
        return True

    def _round(self, calls: Sequence[Call]) -> list[Outputs]:
        """One call for each process, the first one here. Every answer is taken before an error is raised."""
        self._under_way = True
        mine, *others = calls
        busy = self._members[: len(others)]
        for member, call in zip(busy, others, strict=True):
            self._send(member, call)
        outcomes = [_outcome(mine.run), *(_outcome(partial(self._answer, member)) for member in busy)]
        if lost := [outcome for outcome in outcomes if isinstance(outcome, StoppedError)]:
            raise lost[0]
        self._under_way = False
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]

    def _send(self, member: _Member, call: Call) -> None:
        name = call.engine.spec.name
        has_kept = member.kept.get(name) is call.kept
        member.kept[name] = call.kept
        values = dict(call.inputs) if has_kept else {**call.inputs, **call.kept}
        types = {tensor.name: tensor.dtype for tensor in call.engine.spec.inputs}
        values = {each: _typed(value, types.get(each)) for each, value in values.items()}
        with self._noticing(member):
            self._wire.send(member.rank, {"engine": name, "kept": None if has_kept else [*call.kept]}, values)

    def _answer(self, member: _Member) -> Outputs:
        with self._noticing(member):
            # In a thread, because PyTorch does not hear Ctrl-C while it waits.
            head = self._waiter.submit(self._wire.head, member.rank).result()
            outputs = self._wire.values(member.rank, head)
        if head["error"]:
            raise raised(head["error"], head["message"])
        return outputs

    @contextmanager
    def _noticing(self, member: _Member) -> Iterator[None]:
        """Turn what PyTorch says when the other end is gone into a stop that names the process."""
        try:
            yield
        except RuntimeError as error:
            how = _ended(member.process)
            raise StoppedError(f"rank {member.rank} of {self.size} {how}; resume, or leave --gpus out") from error

    def _end(self) -> None:
        """End all other processes: they do so by themselves when their stdin is closed."""
        for member in self._members:
            assert member.process.stdin is not None
            member.process.stdin.close()
        for member in self._members:
            _ended(member.process)


def _begun(membership: Membership, on_cards: bool) -> subprocess.Popen[bytes]:
    """The process of a member, out of reach of the terminal's Ctrl-C, which is this process's to hear."""
    command = [sys.executable, "-P", "-m", "stt2v.engine.parallel.member", membership.to_text()]
    environment = {**os.environ, **(_card_of(membership.rank) if on_cards else {})}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _card_of(rank: int) -> dict[str, str]:
    """All cards with that of process `rank` first: engines are made for the first card, NCCL wants to see all."""
    said = os.environ.get(VISIBLE)
    cards = said.split(",") if said else [str(number) for number in range(card_count())]
    return {VISIBLE: ",".join([cards[rank], *cards[:rank], *cards[rank + 1 :]])}


def _await(member: _Member, meeting: Meeting, size: int) -> None:
    """Wait until a process has its engines. Raises BackendError when it ends instead."""
    while not meeting.has(member.rank):
        if member.process.poll() is not None:
            raise BackendError(f"rank {member.rank} of {size} {_ended(member.process)} before it had its engines")
        time.sleep(POLL)


def _ended(process: subprocess.Popen[bytes]) -> str:
    """How a process ended; one that does not end is killed."""
    try:
        code = process.wait(DYING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "did not answer and was killed"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _outcome(run: Callable[[], Outputs]) -> Outputs | Exception:
    try:
        return run()
    except Exception as error:
        return error


def _typed(value: Value, dtype: str | None) -> Value:
    """A host array of the type that the engine takes; what lies on a device is of that type already."""
    return np.asarray(value, dtype) if isinstance(value, np.ndarray) else value
