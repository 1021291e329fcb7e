"""Updating windows one by one and blending is the reference's order, blending x0 and then updating the clip."""

import numpy as np

from stt2v.engine.blend import place
from stt2v.engine.dpm_solver import CosineSchedule, dpm_table
from stt2v.engine.solver import COEFFICIENTS
from stt2v.engine.stages.denoise import Single
from stt2v.engine.stages.shared_windows import SharedWindows
from stt2v.engine.stages.windows import BlendedClip, State

FRAMES, WINDOW, STARTS = 10, 6, (0, 4)
OFFSETS = np.array([[0, 1], [0, 0], [0, 1], [0, 1]])
SHAPE = (FRAMES, 2, 3, 3)


def estimate(x):
    """A window's x0, different for each place in the window."""
    return np.tanh(x) * np.linspace(0.5, 1, len(x), dtype=np.float32)[:, None, None, None]


class Solver(Single):
    """`estimate`, and the update of a solver that looks back."""

    def each(self, steps):
        return map(self.step, steps)

    def step(self, one):
        row = dict(zip(COEFFICIENTS, one.coefficients, strict=True))
        x0 = estimate(one.x)
        extra = row["k_noise"] * one.updates["noise"] + row["k_previous"] * one.updates["x0_previous"]
        return row["k_x"] * one.x + row["k_x0"] * x0 + extra, x0


def test_order_of_blending_and_update_does_not_matter():
    random = np.random.default_rng(0)
    start, noises = random.standard_normal(SHAPE, np.float32), random.standard_normal((4, *SHAPE), np.float32)
    table = dpm_table(CosineSchedule(), len(OFFSETS), 599)
    runner = SharedWindows(
        Solver(), table, np.ones(WINDOW), {}, STARTS, lambda step, first, shape: noises[step, first : first + shape[0]]
    )
    clip = BlendedClip(WINDOW, STARTS, OFFSETS, runner)
    state = State(start.copy(), np.zeros(SHAPE, np.float32))
    for index in range(len(OFFSETS)):
        before, state = state, State(np.empty_like(start), np.empty_like(start))
        clip.run(index, before, state)

    x, previous = start.copy(), np.zeros(SHAPE, np.float32)
    for index, row in enumerate(table.astype(np.float32)):
        c = dict(zip(COEFFICIENTS, row, strict=True))
        x0 = np.empty(SHAPE, np.float32)
        for begin, offset in zip(STARTS, OFFSETS[index], strict=True):
            place(estimate(x[begin : begin + WINDOW]), begin, offset, x0)
        x = c["k_x"] * x + c["k_x0"] * x0 + c["k_noise"] * noises[index] + c["k_previous"] * previous
        previous = x0
    np.testing.assert_allclose(state.latents, x, rtol=1e-5, atol=1e-6)
