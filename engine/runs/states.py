"""What an enhancer finishes, as units of a run: a state after each step, and the conditions of each window."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from stt2v.engine.backends.base import Array, Values
from stt2v.engine.errands import Errands
from stt2v.engine.runs.arrays import load_arrays, save_arrays
from stt2v.engine.runs.run import Run
from stt2v.engine.stages.keeper import Shape
from stt2v.engine.stages.windows import State


@dataclass(frozen=True)
class ArrayFile:
    """A float32 array in a file from byte `offset` on, read and written by ranges of its first axis.

    Not memory-mapped: what is mapped counts as this process's memory, and a full disk would kill it.
    """

    path: Path
    shape: Shape
    offset: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice, /) -> Array:
        first, stop, _ = frames.indices(len(self))
        values = np.fromfile(self.path, np.float32, (stop - first) * self._items, offset=self._place(first))
        return values.reshape(-1, *self.shape[1:])

    def __setitem__(self, frames: slice, values: Array, /) -> None:
        with self.path.open("r+b") as file:
            file.seek(self._place(frames.indices(len(self))[0]))
            file.write(np.require(values, np.float32, "C").data)

    @property
    def _items(self) -> int:
        return prod(self.shape[1:])

    def _place(self, first: int) -> int:
        return self.offset + first * self._items * 4


def _state(path: Path, shape: Shape) -> State:
    """Latents, then the clean estimate, in one file."""
    return State(ArrayFile(path, shape), ArrayFile(path, shape, prod(shape) * 4))


@dataclass(frozen=True)
class RunKeeper:
    """Keeps states and conditions in the folder `folder` of a run.

    later: finishes the states that are filled; None: they are finished at once.
    """

    run: Run
    folder: str
    later: Errands | None = None

    @contextmanager
    def behind(self) -> Iterator["RunKeeper"]:
        """See `Keeper`. One state waits for the disk; what goes wrong there is raised when the next one is filled.

        A state that waits is finished too where the block raises: it is good whatever comes after it.
        """
        with Errands() as later:
            yield RunKeeper(self.run, self.folder, later)

    def last(self, number: int, shape: Shape) -> tuple[int, State] | None:
        """See `Keeper`."""
        finished = self.run.finished(self._states(number))
        if not finished:
            return None
        path = self.run.path(finished[-1])
        return int(path.stem.rpartition("-")[2]), _state(path, shape)

    @contextmanager
    def state(self, number: int, steps: int, shape: Shape) -> Iterator[State]:
        """See `Keeper`."""
        unit = f"{self._states(number)}{steps:04}.f32"
        with self.run.filling(unit) as path:
            with path.open("wb") as file:
                file.truncate(2 * prod(shape) * 4)
            yield _state(path, shape)
            if self.later:
                self.later.wait()  # what follows a state that could not be kept goes with it
        if self.later:
            self.later.send(partial(self._finish, unit))
        else:
            self._finish(unit)
        self.run.on_unit(unit)

    def _finish(self, unit: str) -> None:
        """Finish `unit`, which makes those before it needless."""
        before = self.run.finished(f"{unit.rpartition('-')[0]}-")
        self.run.finish(unit)
        for old in before:
            self.run.drop(old)

    def _states(self, number: int) -> str:
        return f"{self.folder}/pass-{number}-step-"

    def conditions(self, number: int, window: int, make: Callable[[], Values]) -> Values:
        """See `Keeper`."""
        unit = f"{self.folder}/pass-{number}-window-{window:04}.safetensors"
        if not self.run.has(unit):
            with self.run.writing(unit) as path:
                save_arrays(path, {name: np.asarray(value) for name, value in make().items()})
        return load_arrays(self.run.path(unit))
