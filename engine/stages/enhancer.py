"""What all enhancers share: a text, an autoencoder, and a clip that is denoised in randomly blended windows.

The engines are `enhance_text_encoder`, `enhance_vae_encode`, `enhance_vae_decode` and, for each window length N,
`enhance_N_step` (or `enhance_N_half` and `enhance_N_update`); an enhancer may have more. The picture size is the one
for which the autoencoder's engines were made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.media.image import model_image
from stt2v.engine.media.tokenizer import Tokens
from stt2v.engine.noise import NoiseSource
from stt2v.engine.stages.check import check_frames
from stt2v.engine.stages.windows import BlendedClip

Allocate = Callable[[tuple[int, ...]], Array]
OnWindows = Callable[[int, int, int], None]
"""Called after each step with the number of the pass, the index of the step and how many windows it had."""


class Clip(Protocol):
    """Frames by index: [H, W, 3], uint8 each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frames: ...


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
class ClipEnhancer:
    """An enhancer at work. `text` comes from `encode_prompt`; `allocate` makes the arrays that hold latents."""

    engines: Mapping[str, Engine]
    text: Value
    noise: NoiseSource
    allocate: Allocate = float_array
    on_step: OnWindows = unwatched

    def refine(self, number: int, clip: BlendedClip) -> Array:
        """All steps of pass `number`: the clip's clean latents."""
        for step in clip.run():
            self.on_step(number, step, len(clip.starts))
        return clip.latents

    def encode(self, picture: Frames, stage: str, index: int) -> Array:
        """A picture of the enhancer's size -> [C, h, w], float32: a sample of its scaled latent."""
        inputs = {"image": model_image(picture), "noise": self.noise.normal(stage, index, 0, (1, *self.latent_shape))}
        latents = np.asarray(self.engines["enhance_vae_encode"].run(inputs)["latents"])
        return latents.reshape(self.latent_shape)

    def decode(self, latents: Array) -> Iterator[Array]:
        """latents: [frames, C, h, w] -> one [1, 3, H, W], float32, about [-1, 1], after the other.

        Raises StageError for NaN or a single colour.
        """
        engine = self.engines["enhance_vae_decode"]
        for index in range(len(latents)):
            pixels = np.asarray(engine.run({"latents": latents[index : index + 1]})["frames"])
            yield check_frames("enhance", pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures that go through the autoencoder."""
        height, width = self.engines["enhance_vae_encode"].spec.inputs[0].shape[-2:]
        return width, height

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[C, h, w] of one picture's latent."""
        return self.engines["enhance_vae_decode"].spec.inputs[0].shape[1:]
