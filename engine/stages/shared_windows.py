"""Windows of a solver that looks back: fresh noise and the last clean estimate are common to all windows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Value, Values
from stt2v.engine.solver import COEFFICIENTS, Table
from stt2v.engine.stages.denoise import GuidedSteps, StepInputs
from stt2v.engine.stages.windows import Pair

StepNoise = Callable[[int, int, tuple[int, ...]], Array]
"""(step, first frame, [window, C, h, w]) -> unit noise; the same for a frame whatever window asks for it."""


@dataclass(frozen=True)
class SharedWindows:
    """The windows of a clip through one engine, each for itself, with what the solver takes besides.

    The reference blends the estimates of x0 and then updates the whole clip. The update works frame by frame and hard
    cuts choose whole frames, so updating each window and blending what comes out is the same, and needs no second pass.

    table: [steps, 8] as in `engine/solver.py`; guidance: [window], float32; conditions: shared by all windows; starts:
    the windows' first frames.
    """

    step: GuidedSteps
    table: Table
    guidance: Array
    conditions: Values
    starts: Sequence[int]
    noise: StepNoise

    def run_windows(self, step: int, windows: Iterable[Pair]) -> Iterator[Pair]:
        """See `WindowRunner`."""
        steps = (
            self._inputs(step, window, clean, start)
            for (window, clean), start in zip(windows, self.starts, strict=True)
        )
        return ((np.asarray(x_next), np.asarray(x0)) for x_next, x0 in self.step.each(steps))

    def _inputs(self, step: int, window: Array, clean: Array, start: int) -> StepInputs:
        row = dict(zip(COEFFICIENTS, self.table[step], strict=True))
        nothing = np.zeros_like(window)
        updates: dict[str, Value] = {
            "noise": self.noise(step, start, window.shape) if row["k_noise"] else nothing,
            "x0_previous": clean if row["k_previous"] else nothing,
        }
        return StepInputs(window, self.table[step].astype(np.float32), self.guidance, self.conditions, updates)
