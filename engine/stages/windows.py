"""Denoising a long clip in windows that are put together after every step (see `engine/blend.py`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Values
from stt2v.engine.blend import Offsets, blend
from stt2v.engine.solver import Table
from stt2v.engine.stages.denoise import GuidedStep

Stepped = tuple[Array, Array]
"""x_next and x0 of one window, both [window, C, h, w], float32."""


class WindowRunner(Protocol):
    """Runs the windows of one step. They are independent of each other, so they may run anywhere and in any order."""

    def run_windows(self, step: int, windows: Sequence[Array]) -> list[Stepped]:
        """windows: all of the clip's, in order, [window, C, h, w] each; returns their results in the same order."""
        ...


@dataclass(frozen=True)
class LocalWindows:
    """The windows one after the other through one engine.

    table: [steps, 8] as in `engine/solver.py`; guidance: [window], float32; conditions: of each window.
    """

    step: GuidedStep
    table: Table
    guidance: Array
    conditions: Sequence[Values]

    def run_windows(self, step: int, windows: Sequence[Array]) -> list[Stepped]:
        coefficients = self.table[step].astype(np.float32)
        return [
            self._run(window, coefficients, conditions)
            for window, conditions in zip(windows, self.conditions, strict=True)
        ]

    def _run(self, window: Array, coefficients: Array, conditions: Values) -> Stepped:
        x_next, x0 = self.step(window, coefficients, self.guidance, conditions, {})
        return np.asarray(x_next), np.asarray(x0)


@dataclass(frozen=True)
class BlendedClip:
    """A clip that is being denoised.

    latents: [frames, C, h, w], float32, an array or a memory-mapped file, changed in place once all windows of a step
    have run; clean: the same shape, the estimate of the clean latents after the last step; offsets: [steps, windows].
    """

    latents: Array
    clean: Array
    window: int
    starts: Sequence[int]
    offsets: Offsets
    runner: WindowRunner

    def run(self, first_step: int = 0) -> Iterator[int]:
        """Do the steps from `first_step` on, yielding the number of each when it is done."""
        for step in range(first_step, len(self.offsets)):
            windows = [self.latents[start : start + self.window] for start in self.starts]
            results = self.runner.run_windows(step, windows)
            for target, parts in zip((self.latents, self.clean), zip(*results, strict=True), strict=True):
                blend(parts, self.starts, self.offsets[step], target)
            yield step
