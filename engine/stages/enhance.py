"""The enhancer: I2VGen-XL used as SDEdit (Meng et al. 2022) over a clip, in randomly blended windows.

The engines are `enhance_text_encoder`, `enhance_image_encoder`, `enhance_vae_encode`, `enhance_vae_decode` and, for
each window length N, `enhance_N_conditions` and `enhance_N_step` (or `enhance_N_half` and `enhance_N_update`). The
picture size is the one for which the autoencoder's engines were made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Array, Engine, Frames, Value, Values
from stt2v.engine.blend import draw_offsets
from stt2v.engine.ddim import ddim_table, noised
from stt2v.engine.media.image import model_image
from stt2v.engine.media.pictures import centre_crop, clip_picture, clip_pixels, resized, rounded_picture
from stt2v.engine.models.i2vgen_xl import ENHANCER, EnhancerPass, EnhancerSettings, plan_passes
from stt2v.engine.noise import NoiseSource
from stt2v.engine.stages.check import check_frames
from stt2v.engine.stages.denoise import guided_step
from stt2v.engine.stages.windows import BlendedClip, LocalWindows

Tokens = npt.NDArray[np.int64]
Allocate = Callable[[tuple[int, ...]], Array]
OnWindows = Callable[[int, int, int], None]
"""Called after each step with the number of the pass, the index of the step and how many windows it had."""


def float_array(shape: tuple[int, ...]) -> Array:
    """Where latents live unless the caller says otherwise: an array in memory."""
    return np.empty(shape, np.float32)


def unwatched(number: int, step: int, windows: int) -> None:
    """Where progress goes when nobody looks."""


def encode_prompt(engines: Mapping[str, Engine], prompt: Tokens, negative: Tokens) -> Value:
    """prompt, negative: [1, 77] token ids -> [2, 77, D], float32, the negative prompt first."""
    tokens = np.concatenate([negative, prompt])
    return engines["enhance_text_encoder"].run({"tokens": tokens})["text"]


@dataclass(frozen=True)
class Enhancer:
    """What all passes share. `text` comes from `encode_prompt`; `allocate` makes the arrays that hold latents."""

    engines: Mapping[str, Engine]
    text: Value
    noise: NoiseSource
    settings: EnhancerSettings = ENHANCER
    allocate: Allocate = float_array
    on_step: OnWindows = unwatched

    def enhance(self, frames: Sequence[Frames], picture: Frames) -> Iterator[Frames]:
        """Refine a clip of at least one window (a shorter one is generated to that length and cut afterwards).

        frames: [H, W, 3], uint8 each, of any size; picture: what the clip began with, of any size.
        Yields as many frames at the enhancer's size.

        Raises: PlanError here and now when windows and clip do not fit; BackendError and StageError later.
        """
        return self._passes(plan_passes(len(frames), self.settings), frames, [picture])

    def _passes(
        self, plans: Sequence[EnhancerPass], frames: Sequence[Frames], pictures: Sequence[Frames]
    ) -> Iterator[Frames]:
        """Each pass is conditioned on the results of the one before; those of the last are wanted."""
        *before, last = enumerate(plans)
        for number, plan in before:
            pictures = list(self.run_pass(number, plan, frames, pictures))
        yield from self.run_pass(*last, frames, pictures)

    def run_pass(
        self, number: int, plan: EnhancerPass, frames: Sequence[Frames], pictures: Sequence[Frames]
    ) -> Iterator[Frames]:
        """One pass from pictures to pictures; see `begin` for what goes in."""
        clip = self.begin(number, plan, frames, pictures)
        for step in clip.run():
            self.on_step(number, step, len(plan.starts))
        return self.decode(clip.latents[: plan.kept])

    def begin(
        self, number: int, plan: EnhancerPass, frames: Sequence[Frames], pictures: Sequence[Frames]
    ) -> BlendedClip:
        """Set up pass `number` (which keys its noise) over `frames`, window k conditioned on `pictures[k]`."""
        table = ddim_table(self.settings.schedule, self.settings.steps, self.settings.strength)
        stage = f"enhance_{number}"
        conditions = [
            self.conditions(picture, plan.window, stage, index)
            for index, picture in zip(range(len(plan.starts)), pictures, strict=True)
        ]
        latents = self._start(plan, frames, stage, int(table[0, 1]))
        return BlendedClip(
            latents,
            self.allocate(latents.shape),
            plan.window,
            plan.starts,
            draw_offsets(self.noise, f"{stage}_offset", len(table), plan.starts, plan.window),
            LocalWindows(
                guided_step(self.engines, f"enhance_{plan.window}_step"),
                table,
                np.full(plan.window, self.settings.guidance, np.float32),
                conditions,
            ),
        )

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
        seen = clip_picture(picture, engine.spec.inputs[0].shape[-1], crop=self._size[0])
        embedding = np.asarray(engine.run({"image": clip_pixels(seen)})["image_embedding"])
        return np.stack([np.zeros_like(embedding), embedding])

    def image_latents(self, picture: Frames, window: int, stage: str, index: int) -> Array:
        """picture -> [1, window, C, h, w], float32: its latent, then maps that hold each frame's place in (0, 1]."""
        latent = self.encode(centre_crop(picture, self._size), f"{stage}_picture", index)
        places = np.arange(window, dtype=np.float32) / np.float32(max(window - 1, 1))
        maps = np.tile(places[:, None, None, None], (1, *latent.shape))
        maps[0] = latent
        return maps[None]

    def encode(self, picture: Frames, stage: str, index: int) -> Array:
        """A picture of the enhancer's size -> [C, h, w], float32: a sample of its scaled latent."""
        inputs = {"image": model_image(picture), "noise": self.noise.normal(stage, index, 0, (1, *self._latent_shape))}
        latents = np.asarray(self.engines["enhance_vae_encode"].run(inputs)["latents"])
        return latents.reshape(self._latent_shape)

    def decode(self, latents: Array) -> Iterator[Frames]:
        """latents: [frames, C, h, w] -> one picture after the other. Raises StageError for NaN or a single colour."""
        engine = self.engines["enhance_vae_decode"]
        for index in range(len(latents)):
            pixels = np.asarray(engine.run({"latents": latents[index : index + 1]})["frames"])
            yield rounded_picture(check_frames("enhance", pixels))

    def _start(self, plan: EnhancerPass, frames: Sequence[Frames], stage: str, timestep: int) -> Array:
        """The latents of the pass's frames, noised up to `timestep`: [frames, C, h, w]."""
        latents = self.allocate((len(plan.frames), *self._latent_shape))
        for position, index in enumerate(plan.frames):
            clean = self.encode(resized(frames[index], self._size), f"{stage}_frame", position)
            noise = self.noise.normal(f"{stage}_start", position, 0, clean.shape)
            latents[position] = noised(self.settings.schedule, timestep, clean, noise)
        return latents

    @property
    def _size(self) -> tuple[int, int]:
        """Width and height of the pictures that go through the autoencoder."""
        height, width = self.engines["enhance_vae_encode"].spec.inputs[0].shape[-2:]
        return width, height

    @property
    def _latent_shape(self) -> tuple[int, ...]:
        """[C, h, w] of one picture's latent."""
        return self.engines["enhance_vae_decode"].spec.inputs[0].shape[1:]
