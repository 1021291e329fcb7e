"""I2VGen-XL used as SDEdit (Meng et al. 2022) over a clip, in randomly blended windows.

Beside the engines that all enhancers have: `enhance_image_encoder` and, for each window length N,
`enhance_N_conditions`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Frames, Values
from stt2v.engine.blend import Latents, draw_offsets
from stt2v.engine.ddim import ddim_table, noised
from stt2v.engine.media.pictures import centre_crop, clip_picture, clip_pixels, resized, rounded_picture
from stt2v.engine.models.i2vgen_xl import ENHANCER, EnhancerPass, EnhancerSettings, plan_passes
from stt2v.engine.solver import Table
from stt2v.engine.stages.denoise import guided_step
from stt2v.engine.stages.enhancer import Clip, ClipEnhancer
from stt2v.engine.stages.windows import BlendedClip, LocalWindows


@dataclass(frozen=True)
class I2VGenXL(ClipEnhancer):
    """The enhancer at work."""

    settings: EnhancerSettings = ENHANCER

    def window_steps(self, frames: int) -> int:
        """How many steps of single windows a clip of `frames` takes, all passes together."""
        return self.settings.run_steps * sum(len(part.starts) for part in plan_passes(frames, self.settings))

    def enhance(self, frames: Clip, picture: Frames, first: int = 0, end: int | None = None) -> Iterator[Frames]:
        """Refine a clip of at least one window (a shorter one is generated to that length and cut afterwards).

        frames: [H, W, 3], uint8 each, of any size; picture: what the clip began with, of any size.
        Yields those from number `first` to `end` - 1, at the enhancer's size.

        Raises: PlanError here and now when windows and clip do not fit; BackendError and StageError later.
        """
        return self._passes(plan_passes(len(frames), self.settings), frames, [picture], slice(first, end))

    def _passes(self, plans: Sequence[EnhancerPass], frames: Clip, pictures: Clip, wanted: slice) -> Iterator[Frames]:
        """Each pass is conditioned on the results of the one before; those of the last are wanted."""
        *before, last = enumerate(plans)
        for number, plan in before:
            pictures = self.run_pass(number, plan, frames, pictures)
        yield from self.run_pass(*last, frames, pictures).part(wanted)

    def run_pass(self, number: int, plan: EnhancerPass, frames: Clip, pictures: Clip) -> "Refined":
        """One pass from pictures to pictures; see `begin` for what goes in."""
        start = self._start(plan, frames, f"enhance_{number}")
        latents = self.refine(number, self.begin(number, plan, pictures), start, len(plan.frames))
        return Refined(self, latents, plan.kept)

    def begin(self, number: int, plan: EnhancerPass, pictures: Clip) -> BlendedClip:
        """Set up pass `number` (which keys its noise), window k conditioned on `pictures[k]`."""
        table, stage = self._table, f"enhance_{number}"
        return BlendedClip(
            plan.window,
            plan.starts,
            draw_offsets(self.noise, f"{stage}_offset", len(table), plan.starts, plan.window),
            LocalWindows(
                guided_step(self.engines, f"enhance_{plan.window}_step"),
                table,
                np.full(plan.window, self.settings.guidance, np.float32),
                Told(self, number, plan, pictures),
            ),
        )

    @property
    def _table(self) -> Table:
        return ddim_table(self.settings.schedule, self.settings.steps, self.settings.strength)

    def conditions(self, picture: Frames, window: int, stage: str, index: int) -> Values:
        """What the network is told about one window, from the picture that it should begin with."""
        inputs = {
            "text": self.text,
            "image_embedding": self.embed(picture),
            "image_latents": self.image_latents(picture, window, stage, index),
            "fps": np.full(1, self.settings.fps, np.float32),
        }
        return self.engines[f"enhance_{window}_conditions"].run(inputs)

    def embed(self, picture: Frames) -> Array:
        """picture -> [2, 1, D], float32: CLIP's image embedding for the guidance pair; zeros are "no picture"."""
        engine = self.engines["enhance_image_encoder"]
        seen = clip_picture(picture, engine.spec.inputs[0].shape[-1], crop=self.size[0])
        embedding = np.asarray(engine.run({"image": clip_pixels(seen)})["image_embedding"])
        return np.stack([np.zeros_like(embedding), embedding])

    def image_latents(self, picture: Frames, window: int, stage: str, index: int) -> Array:
        """picture -> [1, window, C, h, w], float32: its latent, then maps that hold each frame's place in (0, 1]."""
        latent = self.encode(centre_crop(picture, self.size), f"{stage}_picture", index)
        places = np.arange(window, dtype=np.float32) / np.float32(max(window - 1, 1))
        maps = np.tile(places[:, None, None, None], (1, *latent.shape))
        maps[0] = latent
        return maps[None]

    def _start(self, plan: EnhancerPass, frames: Clip, stage: str) -> Iterator[Array]:
        """The latent of each frame of the pass, noised up to the first timestep: [C, h, w]."""
        timestep = int(self._table[0, 1])
        latents = self.encoded(lambda index: resized(frames[index], self.size), plan.frames, f"{stage}_frame")
        for position, clean in enumerate(latents):
            noise = self.noise.normal(f"{stage}_start", position, 0, clean.shape)
            yield noised(self.settings.schedule, timestep, clean, noise)


@dataclass(frozen=True)
class Refined:
    """What a pass has made, each picture decoded when it is asked for."""

    enhancer: I2VGenXL
    latents: Latents
    kept: int

    def __len__(self) -> int:
        return self.kept

    def __getitem__(self, index: int, /) -> Frames:
        return rounded_picture(self.enhancer.decode(self.latents, index))

    def part(self, wanted: slice) -> Iterator[Frames]:
        """The pictures of these numbers."""
        return self.enhancer.decoded(rounded_picture, self.latents, range(self.kept)[wanted])


@dataclass(frozen=True)
class Told:
    """The conditions of a pass's windows, in their order, one at a time in memory."""

    enhancer: I2VGenXL
    number: int
    plan: EnhancerPass
    pictures: Clip

    def __iter__(self) -> Iterator[Values]:
        return (self._window(index) for index in range(len(self.plan.starts)))

    def _window(self, index: int) -> Values:
        def make() -> Values:
            return self.enhancer.conditions(self.pictures[index], self.plan.window, f"enhance_{self.number}", index)

        return self.enhancer.keeper.conditions(self.number, index, make)
