"""The enhancer of `mini`: SDEdit (Meng et al. 2022) over a clip of twice the size, in randomly blended windows.

The same DDIM steps as in the streaming stage, without guidance. Frames are decoded a window's length at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.belt import ahead
from stt2v.engine.blend import Latents, draw_offsets, window_starts
from stt2v.engine.ddim import ddim_table, noised
from stt2v.engine.media.image import model_image
from stt2v.engine.media.pictures import enlarged
from stt2v.engine.models.mini import ENHANCER, MiniEnhancerSettings, run_steps
from stt2v.engine.parallel.group import Call, run_all
from stt2v.engine.schedules import cosine_v
from stt2v.engine.stages.check import check_frames
from stt2v.engine.stages.decode import to_uint8
from stt2v.engine.stages.denoise import UnguidedStep, WatchedStep
from stt2v.engine.stages.enhancer import PREPARED, Clip, ClipEnhancer
from stt2v.engine.stages.windows import BlendedClip, LocalWindows

STAGE = "enhance"


@dataclass(frozen=True)
class MiniEnhancer(ClipEnhancer):
    """The enhancer at work."""

    settings: MiniEnhancerSettings = ENHANCER

    def window_steps(self, frames: int) -> int:
        """How many steps of single windows a clip of `frames` takes."""
        return run_steps(self.settings.steps) * len(self._starts(frames))

    def enhance(self, frames: Clip, picture: Frames, first: int = 0, end: int | None = None) -> Iterator[Frames]:
        """Refine a clip of at least one window. frames: [H, W, 3], uint8 each; picture: not looked at.

        Yields those from number `first` to `end` - 1, of the enhancer's size.

        Raises: PlanError here and now when windows and clip do not fit; BackendError and StageError later.
        """
        starts = self._starts(len(frames))
        return self._refined(frames, starts, range(len(frames))[first:end])

    def _refined(self, frames: Clip, starts: tuple[int, ...], wanted: range) -> Iterator[Frames]:
        how = self.settings
        table = ddim_table(cosine_v(how.steps), how.steps, how.strength)
        conditions = self.engines["enhance_conditions"].run({"text": self.text})
        step = WatchedStep(UnguidedStep(self.engines[f"enhance_{how.window}_step"]), STAGE)
        runner = LocalWindows(step, table, np.ones(how.window, np.float32), [conditions] * len(starts))
        offsets = draw_offsets(self.noise, f"{STAGE}_offset", len(table), starts, how.window)
        clip = BlendedClip(how.window, starts, offsets, runner)
        clean = self.refine(0, clip, self._noised(frames, int(table[0, 1])), len(frames))
        yield from self._decoded(clean, wanted)

    def _noised(self, frames: Clip, timestep: int) -> Iterator[Array]:
        """The latent of each enlarged frame, noised up to the first timestep: [C, h, w]."""
        engine = self.engines["enhance_vae_encode"]
        images = ahead(lambda index: model_image(enlarged(frames[index], self.size)), range(len(frames)), PREPARED)
        for index, made in enumerate(run_all(Call(engine, {"image": image}) for image in images)):
            clean = np.asarray(made["latents"])[0]
            noise = self.noise.normal(f"{STAGE}_start", index, 0, clean.shape)
            yield noised(cosine_v(self.settings.steps), timestep, clean, noise)

    def _decoded(self, latents: Latents, wanted: range) -> Iterator[Frames]:
        """Frames of these numbers; the last group begins where it must to be whole."""
        engine = self.engines["enhance_vae_decode"]
        group = engine.spec.inputs[0].shape[0]
        first, end = wanted.start, wanted.stop
        starts = [start for start in window_starts(len(latents), group, 0) if start + group > first and start < end]
        calls = (Call(engine, {"latents": latents[start : start + group]}) for start in starts)
        for start, made in zip(starts, run_all(calls), strict=True):
            pixels = check_frames(STAGE, np.asarray(made["frames"]))
            yield from to_uint8(pixels)[max(0, first - start) : end - start]
            first = start + group

    def _starts(self, frames: int) -> tuple[int, ...]:
        return window_starts(frames, self.settings.window, self.settings.overlap)
