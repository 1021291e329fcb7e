"""Schedules by name: a solver's coefficient table and the scale of the first latents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stt2v.engine import ddim
from stt2v.engine.dpm_solver import multistep_table
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


MODELSCOPE = ddim.Schedule(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, set_alpha_to_one=False
)


def _modelscope(steps: int) -> Schedule:
    return Schedule(multistep_table(ddim.alpha_bars(MODELSCOPE), steps), 1.0)


def _modelscope_ancestral(steps: int) -> Schedule:
    return Schedule(ddim.ddim_table(MODELSCOPE, steps, eta=1.0), 1.0)


def cosine_v(steps: int) -> ddim.Schedule:
    """Prediction of v on a cosine schedule (Nichol & Dhariwal 2021), the first of `steps` steps from pure noise.

    Where they do not divide the training timesteps, it is only nearly pure: 30 steps begin at timestep 989 of 999.
    """
    last = ddim.Schedule.num_train_timesteps
    return ddim.Schedule("v_prediction", "squaredcos_cap_v2", num_train_timesteps=last, steps_offset=last // steps - 1)


def _cosine(steps: int) -> Schedule:
    return Schedule(ddim.ddim_table(cosine_v(steps), steps), 1.0)


SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "cosine": _cosine,
    "karras": _euler(karras),
    "align-your-steps": _euler(align_your_steps),
    "modelscope": _modelscope,
    "modelscope-ancestral": _modelscope_ancestral,
}
