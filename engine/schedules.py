"""Schedules by name: a solver's coefficient table and the scale of the first latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stt2v.engine.sigmas import Sigmas, align_your_steps, euler_table, initial_scale, karras
from stt2v.engine.solver import Table


@dataclass(frozen=True)
class Schedule:
    """table: [steps, 8] as in `engine/solver.py`; unit noise times `initial_scale` is where the steps start."""

    table: Table
    initial_scale: float


def _euler(sigmas: Callable[[int], Sigmas]) -> Callable[[int], Schedule]:
    def schedule(steps: int) -> Schedule:
        values = sigmas(steps)
        return Schedule(euler_table(values), initial_scale(values))

    return schedule


SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "karras": _euler(karras),
    "align-your-steps": _euler(align_your_steps),
}
