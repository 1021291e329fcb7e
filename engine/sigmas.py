"""Sigma schedules of EDM-style models, and Euler's method on them as a coefficient table."""

import numpy as np
import numpy.typing as npt

from stt2v.engine.solver import Table

Sigmas = npt.NDArray[np.float64]

# Align Your Steps (Sabour et al. 2024), the table for Stable Video Diffusion with the ends that StreamingSVD uses.
ALIGN_YOUR_STEPS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def align_your_steps(steps: int) -> Sigmas:
    """The anchors interpolated in ln(sigma) to `steps` values, then 0: [steps + 1], decreasing."""
    anchors = np.log(np.array(ALIGN_YOUR_STEPS))
    grid = np.linspace(0.0, 1.0, steps)
    sigmas = np.exp(np.interp(grid, np.linspace(0.0, 1.0, len(anchors)), anchors))
    return np.append(sigmas, 0.0)


def karras(steps: int, smallest: float = 0.002, largest: float = 700.0, rho: float = 7.0) -> Sigmas:
    """Karras et al. 2022, equation 5, then 0: [steps + 1], decreasing. The defaults are those of SVD-XT."""
    ramp = np.linspace(0.0, 1.0, steps)
    ends = smallest ** (1 / rho), largest ** (1 / rho)
    return np.append((ends[1] + ramp * (ends[0] - ends[1])) ** rho, 0.0)


def scaling(sigma: Sigmas) -> tuple[Sigmas, Sigmas, Sigmas, Sigmas]:
    """c_in, c_noise, c_skip, c_out of v-prediction in EDM's terms (Karras et al. 2022, table 1, sigma_data = 1)."""
    c_in = 1.0 / np.sqrt(sigma**2 + 1.0)
    return c_in, 0.25 * np.log(sigma), c_in**2, -sigma * c_in


def euler_table(sigmas: Sigmas) -> Table:
    """Euler's method (Karras et al. 2022, algorithm 1 without churn) on [steps + 1] sigmas: [steps, 8].

    x + (next - sigma) * (x - x0) / sigma is linear: x * next/sigma + x0 * (1 - next/sigma).
    """
    sigma, ratio = sigmas[:-1], sigmas[1:] / sigmas[:-1]
    c_in, c_noise, c_skip, c_out = scaling(sigma)
    nothing = np.zeros_like(sigma)
    return np.stack([c_in, c_noise, c_skip, c_out, ratio, 1.0 - ratio, nothing, nothing], axis=1)


def initial_scale(sigmas: Sigmas) -> float:
    """What unit noise is multiplied by before the first step."""
    return float(np.sqrt(1.0 + sigmas[0] ** 2))
