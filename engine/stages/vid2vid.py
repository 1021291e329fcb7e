"""MS-Vid2Vid-XL used as SDEdit (Meng et al. 2022) over a clip, in randomly blended windows.

It is told a text only, the same for all windows: beside the engines that all enhancers have, one `enhance_conditions`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.blend import draw_offsets, window_starts
from stt2v.engine.dpm_solver import dpm_table, solver_k_sigmas
from stt2v.engine.media.canvas import on_canvas
from stt2v.engine.models.vid2vid import ENHANCER, Vid2VidSettings
from stt2v.engine.stages.decode import to_uint8
from stt2v.engine.stages.denoise import guided_step
from stt2v.engine.stages.enhancer import Clip, ClipEnhancer
from stt2v.engine.stages.shared_windows import SharedWindows
from stt2v.engine.stages.windows import BlendedClip

STAGE = "enhance"


@dataclass(frozen=True)
class Vid2Vid(ClipEnhancer):
    """The enhancer at work."""

    settings: Vid2VidSettings = ENHANCER

    def window_steps(self, frames: int) -> int:
        """How many steps of single windows a clip of `frames` takes."""
        return self.settings.steps * len(self._starts(frames))

    def enhance(self, frames: Clip, picture: Frames) -> Iterator[Frames]:
        """Refine a clip of at least one window (a shorter one is generated to that length and cut afterwards).

        frames: [H, W, 3], uint8 each, of any size; picture: what the clip began with, which is not looked at.
        Yields as many frames at the enhancer's size, the clip's content in the middle of each.

        Raises: PlanError here and now when windows and clip do not fit; BackendError and StageError later.
        """
        starts = self._starts(len(frames))
        return self._refined(frames, starts)

    def _refined(self, frames: Clip, starts: tuple[int, ...]) -> Iterator[Frames]:
        clean = self.refine(0, self.begin(self._noised(frames), starts))
        for pixels in self.decode(clean):
            yield to_uint8(pixels)[0]

    def begin(self, noisy: Array, starts: tuple[int, ...]) -> BlendedClip:
        """Set up the run that refines `noisy` latents, [frames, C, h, w], float32, changed in place."""
        settings = self.settings
        table = dpm_table(settings.schedule, settings.steps, settings.start)
        # The reference scales latents of unit variance as if they were clean: kept for parity.
        noisy *= np.float32(solver_k_sigmas(settings.schedule, settings.steps, settings.start)[0])
        clean = self.allocate(noisy.shape)
        runner = SharedWindows(
            guided_step(self.engines, f"enhance_{settings.window}_step"),
            table,
            np.full(settings.window, settings.guidance, np.float32),
            self.engines["enhance_conditions"].run({"text": self.text}),
            starts,
            clean,
            functools.partial(self._step_noise, noisy.shape[1:]),
        )
        offsets = draw_offsets(self.noise, f"{STAGE}_offset", len(table), starts, settings.window)
        return BlendedClip(noisy, clean, settings.window, starts, offsets, runner)

    def _noised(self, frames: Clip) -> Array:
        """The latents of the frames on their canvas, noised up to the first timestep: [frames, C, h, w]."""
        schedule, start = self.settings.schedule, self.settings.start
        alpha, sigma = (np.float32(values[start]) for values in (schedule.alphas(), schedule.sigmas()))
        latents = self.allocate((len(frames), *self.latent_shape))
        for index in range(len(frames)):
            latent = self.encode(on_canvas(frames[index], self.size), f"{STAGE}_frame", index)
            latents[index] = alpha * latent + sigma * self.noise.normal(f"{STAGE}_start", index, 0, latent.shape)
        return latents

    def _step_noise(self, shape: tuple[int, ...], step: int, first: int, count: int) -> Array:
        """Keyed by frame, so that neighbouring windows share it where they overlap."""
        return np.stack([self.noise.normal(f"{STAGE}_step", first + index, step, shape) for index in range(count)])

    def _starts(self, frames: int) -> tuple[int, ...]:
        return window_starts(frames, self.settings.window, self.settings.overlap)
