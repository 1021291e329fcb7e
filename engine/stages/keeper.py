"""Where an enhancer keeps what it has finished, so that its memory does not grow with the clip."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Values
from stt2v.engine.stages.windows import State

Shape = tuple[int, ...]


class Keeper(Protocol):
    """The states of each pass over a clip, and the conditions of its windows. Shapes are [frames, C, h, w]."""

    def behind(self) -> AbstractContextManager["Keeper"]:
        """The same keeper, which may be late by one state while the block runs, and is not when it ends."""
        ...

    def last(self, number: int, shape: Shape) -> tuple[int, State] | None:
        """How many steps of pass `number` are done, and the state they led to; None before it has begun."""
        ...

    def state(self, number: int, steps: int, shape: Shape) -> AbstractContextManager[State]:
        """A state to fill, kept when the block ends or, behind, soon after; to be read until the next one is kept."""
        ...

    def conditions(self, number: int, window: int, make: Callable[[], Values]) -> Values:
        """What the network is told about a window of pass `number`: made once."""
        ...


class InMemory:
    """Keeps everything in memory: for short clips."""

    def __init__(self) -> None:
        self._states: dict[int, tuple[int, State]] = {}
        self._conditions: dict[tuple[int, int], Values] = {}

    def behind(self) -> AbstractContextManager[Keeper]:
        """See `Keeper`."""
        return nullcontext(self)

    def last(self, number: int, shape: Shape) -> tuple[int, State] | None:
        """See `Keeper`."""
        return self._states.get(number)

    @contextmanager
    def state(self, number: int, steps: int, shape: Shape) -> Iterator[State]:
        """See `Keeper`."""
        state = State(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        yield state
        self._states[number] = steps, state

    def conditions(self, number: int, window: int, make: Callable[[], Values]) -> Values:
        """See `Keeper`."""
        if (number, window) not in self._conditions:
            self._conditions[number, window] = make()
        return self._conditions[number, window]
