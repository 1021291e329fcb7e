"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) as coefficient tables, with and without noise; vid2vid's schedule.

*k-sigma* is sigma / alpha of a variance-preserving schedule: the noise in a latent whose signal has share 1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stt2v.engine.errors import UsageError
from stt2v.engine.solver import Table

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CosineSchedule:
    """A cosine schedule of log signal-to-noise ratios, shifted towards noise (Hoogeboom et al. 2023, section 3.1).

    The shift is by the factor `scale_clean` where the latent is clean, `scale_noisy` where it is noise, and in between
    in between; then sigma is stretched so that the last timestep is noise alone.
    """

    timesteps: int = 1000
    logsnr_limit: float = 15.0
    scale_clean: float = 2.0
    scale_noisy: float = 4.0

    def sigmas(self) -> Values:
        """Share of noise at every timestep: [timesteps], increasing to 1."""
        clean = np.linspace(1.0, 0.0, self.timesteps)
        noisy_angle, clean_angle = np.arctan(np.exp(np.array([0.5, -0.5]) * self.logsnr_limit))
        shift = clean * np.log(self.scale_clean) + (1.0 - clean) * np.log(self.scale_noisy)
        logsnr = -2.0 * np.log(np.tan(noisy_angle + clean * (clean_angle - noisy_angle))) - 2.0 * shift
        sigma = np.sqrt(1.0 / (1.0 + np.exp(logsnr)))
        return np.asarray(sigma[0] + (sigma - sigma[0]) * (1.0 - sigma[0]) / (sigma[-1] - sigma[0]))

    def alphas(self) -> Values:
        """Share of signal at every timestep: [timesteps], decreasing to 0."""
        return np.sqrt(1.0 - np.square(self.sigmas()))

    def k_sigmas(self, times: Values) -> Values:
        """k-sigmas at any times, their logarithms interpolated linearly; infinite beyond the last timestep but one."""
        last = self.timesteps - 2
        logs = np.interp(times, np.arange(last + 1), self._log_k_sigmas()[:-1])
        return np.where(times > last, np.inf, np.exp(logs))

    def times(self, k_sigmas: Values) -> Values:
        """Where on the schedule the given k-sigmas lie, between the first and the last timestep."""
        logs = self._log_k_sigmas()
        finite = np.interp(np.log(k_sigmas), logs[:-1], np.arange(self.timesteps - 1, dtype=np.float64))
        return np.where(np.isinf(k_sigmas), self.timesteps - 1.0, finite)

    def _log_k_sigmas(self) -> Values:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.sigmas()) - np.log(self.alphas()))


def solver_k_sigmas(schedule: CosineSchedule, steps: int, start: int) -> Values:
    """The k-sigmas that `steps` steps begin at, from timestep `start` down, and a final 0: [steps + 1].

    Times are spaced "trailing" (Lin et al. 2023, section 3.3) for one step more than asked for; the step that this
    leaves over at the clean end is skipped.

    Raises: UsageError for steps or a start that the schedule does not have.
    """
    if not 0 < start < schedule.timesteps - 1:
        raise UsageError(f"start is timestep {start}, expected 1 to {schedule.timesteps - 2}")
    if not 1 <= steps <= start:
        raise UsageError(f"steps is {steps}, expected 1 to {start}")
    times = start - np.arange(steps) * (start + 1) / (steps + 1)
    return np.append(schedule.k_sigmas(times), 0.0)


def dpm_table(schedule: CosineSchedule, steps: int, start: int) -> Table:
    """The solver with noise (SDE, midpoint, eta 1) for a network that predicts v: [steps, 8].

    Latents are x0 + k-sigma * noise, and begin as unit-variance ones times the first k-sigma.

    x0 of the step before enters from the second step on, noise in all but the last, which arrives at x0.

    Raises: UsageError as `solver_k_sigmas`.
    """
    k_sigmas = solver_k_sigmas(schedule, steps, start)
    now, following = k_sigmas[:-1], k_sigmas[1:]
    times = np.rint(schedule.times(now))
    at = times.astype(np.int64)
    c_in = 1.0 / np.sqrt(1.0 + np.square(now))
    with np.errstate(divide="ignore"):
        h = np.log(now) - np.log(following)  # infinite in the last step
    fresh = -np.expm1(-2.0 * h)
    ratio = np.zeros_like(h)
    ratio[1:-1] = 0.5 * h[1:-1] / h[:-2]
    return np.stack(
        [
            c_in,
            times,
            schedule.alphas()[at] * c_in,
            -schedule.sigmas()[at],
            following / now * np.exp(-h),
            fresh * (1.0 + ratio),
            following * np.sqrt(fresh),
            -fresh * ratio,
        ],
        axis=1,
    )


def multistep_table(alpha_bars: Values, steps: int) -> Table:
    """The solver without noise for a network that predicts noise, from noise to x0: [steps, 8].

    alpha_bars: squared share of signal at every training timestep. Latents are alpha * x0 + sigma * noise, times are
    spaced evenly ("linspace"), and x0 of the step before enters in all but the first and the last step.

    Raises: UsageError for a number of steps that the training timesteps do not have.
    """
    last = len(alpha_bars) - 1
    if not 1 <= steps <= last:
        raise UsageError(f"steps is {steps}, expected 1 to {last}")
    times = np.rint(np.linspace(0, last, steps + 1))[:0:-1]
    bars = np.append(alpha_bars[times.astype(np.int64)], 1.0)
    alpha, sigma = np.sqrt(bars), np.sqrt(1.0 - bars)
    with np.errstate(divide="ignore"):
        h = -np.diff(np.log(sigma) - np.log(alpha))  # infinite in the last step
    ratio = np.zeros_like(h)
    ratio[1:-1] = 0.5 * h[1:-1] / h[:-2]
    fresh = -alpha[1:] * np.expm1(-h)
    one, nothing = np.ones_like(h), np.zeros_like(h)
    c_skip, c_out = 1.0 / alpha[:-1], -sigma[:-1] / alpha[:-1]
    k_x = sigma[1:] / sigma[:-1]
    return np.stack([one, times, c_skip, c_out, k_x, fresh * (1.0 + ratio), nothing, -fresh * ratio], axis=1)
