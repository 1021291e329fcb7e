"""MS-Vid2Vid-XL used as SDEdit (Meng et al. 2022) over a clip, in randomly blended windows.

It is told a text only, the same for all windows: beside the engines that all enhancers have, one `enhance_conditions`.
"""

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

    def enhance(self, frames: Clip, picture: Frames, first: int = 0, end: int | None = None) -> Iterator[Frames]:
        """Refine a clip of at least one window (a shorter one is generated to that length and cut afterwards).

        frames: [H, W, 3], uint8 each, of any size; picture: what the clip began with, which is not looked at.
        Yields those from number `first` to `end` - 1, at the enhancer's size, the clip's content in the middle.

        Raises: PlanError here and now when windows and clip do not fit; BackendError and StageError later.
        """
        starts = self._starts(len(frames))
        return self._refined(frames, starts, range(len(frames))[first:end])

    def _refined(self, frames: Clip, starts: tuple[int, ...], wanted: range) -> Iterator[Frames]:
        clean = self.refine(0, self.begin(starts), map(self.scaled, self._noised(frames)), len(frames))
        yield from self.decoded(lambda pixels: to_uint8(pixels)[0], clean, wanted)

    def begin(self, starts: tuple[int, ...]) -> BlendedClip:
        """Set up the run that refines what `scaled` gives."""
        settings = self.settings
        table = dpm_table(settings.schedule, settings.steps, settings.start)
        runner = SharedWindows(
            guided_step(self.engines, f"enhance_{settings.window}_step"),
            table,
            np.full(settings.window, settings.guidance, np.float32),
            self.engines["enhance_conditions"].run({"text": self.text}),
            starts,
            self._step_noise,
        )
        offsets = draw_offsets(self.noise, f"{STAGE}_offset", len(table), starts, settings.window)
        return BlendedClip(settings.window, starts, offsets, runner)

    def scaled(self, noisy: Array) -> Array:
        """Noisy latents as the solver takes them.

        The reference scales latents of unit variance as if they were clean: kept for parity.
        """
        settings = self.settings
        return noisy * np.float32(solver_k_sigmas(settings.schedule, settings.steps, settings.start)[0])

    def _noised(self, frames: Clip) -> Iterator[Array]:
        """The latent of each frame on its canvas, noised up to the first timestep: [C, h, w]."""
        schedule, start = self.settings.schedule, self.settings.start
        alpha, sigma = (np.float32(values[start]) for values in (schedule.alphas(), schedule.sigmas()))
        latents = self.encoded(lambda index: on_canvas(frames[index], self.size), range(len(frames)), f"{STAGE}_frame")
        for index, latent in enumerate(latents):
            yield alpha * latent + sigma * self.noise.normal(f"{STAGE}_start", index, 0, latent.shape)

    def _step_noise(self, step: int, first: int, shape: tuple[int, ...]) -> Array:
        """Keyed by frame, so that neighbouring windows share it where they overlap."""
        count, *latent = shape
        frames = range(first, first + count)
        return np.stack([self.noise.normal(f"{STAGE}_step", frame, step, tuple(latent)) for frame in frames])

    def _starts(self, frames: int) -> tuple[int, ...]:
        return window_starts(frames, self.settings.window, self.settings.overlap)
