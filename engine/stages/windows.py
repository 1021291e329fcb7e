"""Denoising a long clip in windows that are put together after every step (see `engine/blend.py`)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Values
from stt2v.engine.blend import Latents, Offsets, place
from stt2v.engine.solver import Table
from stt2v.engine.stages.denoise import GuidedSteps, StepInputs


@dataclass(frozen=True)
class State:
    """A clip between two steps: its latents, and the estimate of the clean ones that came of the last step."""

    latents: Latents
    clean: Latents


Pair = tuple[Array, Array]
"""Latents and clean estimate of one window, both [window, C, h, w], float32."""


class WindowRunner(Protocol):
    """Runs the windows of one step. They are independent of each other, so they may run anywhere and in any order."""

    def run_windows(self, step: int, windows: Iterable[Pair]) -> Iterator[Pair]:
        """windows: all of the clip's as the last step left them, in order; yields x_next and x0 in the same order."""
        ...


@dataclass(frozen=True)
class LocalWindows:
    """The windows through one engine, each for itself.

    table: [steps, 8] as in `engine/solver.py`; guidance: [window], float32; conditions: of each window.
    """

    step: GuidedSteps
    table: Table
    guidance: Array
    conditions: Iterable[Values]

    def run_windows(self, step: int, windows: Iterable[Pair]) -> Iterator[Pair]:
        coefficients = self.table[step].astype(np.float32)
        steps = (
            StepInputs(window, coefficients, self.guidance, conditions, {})
            for (window, _), conditions in zip(windows, self.conditions, strict=True)
        )
        return ((np.asarray(x_next), np.asarray(x0)) for x_next, x0 in self.step.each(steps))


@dataclass(frozen=True)
class BlendedClip:
    """How a clip is denoised: the first frames of its windows, where they are cut ([steps, windows]), who runs them."""

    window: int
    starts: Sequence[int]
    offsets: Offsets
    runner: WindowRunner

    def run(self, step: int, before: State, after: State) -> None:
        """Do one step from `before`, which is only read, to `after`, which is filled; few windows are in memory."""
        windows = (
            (before.latents[start : start + self.window], before.clean[start : start + self.window])
            for start in self.starts
        )
        results = self.runner.run_windows(step, windows)
        for (x_next, x0), start, offset in zip(results, self.starts, self.offsets[step], strict=True):
            place(x_next, start, offset, after.latents)
            place(x0, start, offset, after.clean)
