"""Runs of engines that do not depend on each other, and who does them: one process, or several side by side."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from stt2v.engine.backends.base import Engine, Value, Values
from stt2v.engine.errors import UsageError

Item = TypeVar("Item")
Outputs = dict[str, Value]


@dataclass(frozen=True)
class Call:
    """One run of an engine.

    kept: inputs that stay the same from call to call; as long as they are the same object, a process that has them is
    not sent them again.
    """

    engine: Engine
    inputs: Values
    kept: Values = field(default_factory=dict)

    def run(self) -> Outputs:
        """Run it here."""
        return self.engine.run({**self.inputs, **self.kept})


class Group(Protocol):
    """Processes that have the same engines, each a card of its own; this one is the first of `size`."""

    @property
    def size(self) -> int: ...

    def run_all(self, calls: Iterable[Call]) -> Iterator[Outputs]:
        """The results of independent calls in their order; at most one more than `size` are in memory.

        Raises what the engines raise, wherever they are, and StoppedError when a process has ended.
        """
        ...

    def expect(self, names: Iterable[str]) -> None:
        """Engines that the other processes are going to first use in this order."""
        ...

    def close(self) -> None:
        """End the other processes."""
        ...


class Alone:
    """The group of this process only."""

    size = 1

    def run_all(self, calls: Iterable[Call]) -> Iterator[Outputs]:
        """See `Group`. While a card is at work on a call, the caller takes the result of the one before."""
        begun: deque[Outputs] = deque()
        for call in calls:
            begun.append(call.run())
            kept = _under_way(begun[-1])
            while len(begun) > kept:
                yield begun.popleft()
        while begun:
            yield begun.popleft()

    def expect(self, names: Iterable[str]) -> None:
        """There are no others."""

    def close(self) -> None:
        """There are no others."""


def _under_way(outputs: Outputs) -> int:
    """1 where a device may still be at work on what was returned, 0 for arrays of the host."""
    return int(not all(isinstance(value, np.ndarray) for value in outputs.values()))


class SpreadEngine:
    """An engine that every process of a group has; run by itself, it runs here."""

    def __init__(self, engine: Engine, group: Group) -> None:
        self.spec = engine.spec
        self.group = group
        self.run = engine.run
        self.close = engine.close


@dataclass(frozen=True)
class SpreadEngines(Mapping[str, Engine]):
    """The engines that every process of `group` has."""

    engines: Mapping[str, Engine]
    group: Group

    def __getitem__(self, name: str) -> Engine:
        return SpreadEngine(self.engines[name], self.group)

    def __contains__(self, name: object) -> bool:
        return name in self.engines

    def __iter__(self) -> Iterator[str]:
        return iter(self.engines)

    def __len__(self) -> int:
        return len(self.engines)


def check_size(size: int, vram: int | None) -> None:
    """Raise UsageError for a number of processes that there cannot be, or that cannot keep to `vram`."""
    if size < 1:
        raise UsageError(f"number of GPUs is {size}, expected at least 1")
    if size > 1 and vram is not None:
        raise UsageError(f"--vram and --gpus {size} are given, --vram is of one card; leave one of them out")


def size_of(engines: Mapping[str, Engine]) -> int:
    """How many processes have these engines."""
    return engines.group.size if isinstance(engines, SpreadEngines) else 1


def run_all(calls: Iterable[Call]) -> Iterator[Outputs]:
    """The results of independent calls in their order, by the group that the first one's engine belongs to."""
    rest = iter(calls)
    for first in rest:
        group = first.engine.group if isinstance(first.engine, SpreadEngine) else Alone()
        yield from group.run_all(itertools.chain((first,), rest))


def for_calls(items: Iterable[Item]) -> tuple[Iterator[Item], Iterator[Item]]:
    """`items` twice: to make calls of, and to be read again, each item after a result of its calls.

    Nothing is kept that was read twice, where `itertools.tee` keeps the last 57.
    """
    waiting: deque[Item] = deque()

    def first() -> Iterator[Item]:
        for item in items:
            waiting.append(item)
            yield item

    def again() -> Iterator[Item]:
        while waiting:
            yield waiting.popleft()

    return first(), again()
