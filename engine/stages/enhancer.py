"""What all enhancers share: a text, an autoencoder, and a clip that is denoised in randomly blended windows.

The engines are `enhance_text_encoder`, `enhance_vae_encode`, `enhance_vae_decode` and, for each window length N,
`enhance_N_step` (or `enhance_N_half` and `enhance_N_update`); an enhancer may have more. The picture size is the one
for which the autoencoder's engines were made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.belt import ahead
from stt2v.engine.blend import Latents
from stt2v.engine.media.image import model_image
from stt2v.engine.media.tokenizer import Tokens
from stt2v.engine.noise import NoiseSource
from stt2v.engine.parallel.group import Call, Outputs, run_all
from stt2v.engine.stages.check import check_frames
from stt2v.engine.stages.keeper import InMemory, Keeper, Shape
from stt2v.engine.stages.windows import BlendedClip, State

PREPARED = 4  # pictures that are made ready for the autoencoder while one is encoded

OnWindows = Callable[[int, int, int], None]
"""Called after each step with the number of the pass, the index of the step and how many windows it had."""


class Clip(Protocol):
    """Frames by index: [H, W, 3], uint8 each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frames: ...


def unwatched(number: int, step: int, windows: int) -> None:
    """Where progress goes when nobody looks."""


def encode_prompt(engines: Mapping[str, Engine], prompt: Tokens, negative: Tokens) -> Value:
    """prompt, negative: [1, 77] token ids -> [2, 77, D], float32, the negative prompt first."""
    tokens = np.concatenate([negative, prompt])
    return engines["enhance_text_encoder"].run({"tokens": tokens})["text"]


@dataclass(frozen=True)
class ClipEnhancer:
    """An enhancer at work. `text` comes from `encode_prompt`; `keeper` has what is finished already."""

    engines: Mapping[str, Engine]
    text: Value
    noise: NoiseSource
    keeper: Keeper = field(default_factory=InMemory)
    on_step: OnWindows = unwatched

    def refine(self, number: int, clip: BlendedClip, start: Iterable[Array], frames: int) -> Latents:
        """All steps of pass `number` that are not done yet: the clean latents of its `frames` frames.

        start: what the first step begins with, frame by frame, [C, h, w] each.
        """
        with self.keeper.behind() as keeper:
            done, state = self._begun(keeper, number, start, (frames, *self.latent_shape))
            for step in range(len(clip.offsets)):
                if step >= done:
                    with keeper.state(number, step + 1, (frames, *self.latent_shape)) as after:
                        clip.run(step, state, after)
                    state = after
                self.on_step(number, step, len(clip.starts))
        return state.latents

    @staticmethod
    def _begun(keeper: Keeper, number: int, start: Iterable[Array], shape: Shape) -> tuple[int, State]:
        """How far pass `number` is, at least at its start."""
        if last := keeper.last(number, shape):
            return last
        with keeper.state(number, 0, shape) as state:
            for index, latent in enumerate(start):
                state.latents[index : index + 1] = latent[None]
        return 0, state

    def encode(self, picture: Frames, stage: str, index: int) -> Array:
        """A picture of the enhancer's size -> [C, h, w], float32: a sample of its scaled latent."""
        return self._latent(self._encoding(picture, stage, index).run())

    def encoded(self, picture: Callable[[int], Frames], frames: Sequence[int], stage: str) -> Iterator[Array]:
        """The picture of each of `frames` as by `encode`, their places in the row being its index.

        Threads prepare the next ones meanwhile: to resize one takes about as long as a card to encode it.
        """
        calls = ahead(lambda place: self._encoding(picture(frames[place]), stage, place), range(len(frames)), PREPARED)
        return map(self._latent, run_all(calls))

    def _encoding(self, picture: Frames, stage: str, index: int) -> Call:
        noise = self.noise.normal(stage, index, 0, (1, *self.latent_shape))
        return Call(self.engines["enhance_vae_encode"], {"image": model_image(picture), "noise": noise})

    def _latent(self, made: Outputs) -> Array:
        return np.asarray(made["latents"]).reshape(self.latent_shape)

    def decode(self, latents: Latents, index: int) -> Array:
        """latents: [frames, C, h, w] -> frame `index`: [1, 3, H, W], float32, about [-1, 1].

        Raises StageError for NaN or a single colour.
        """
        return check_frames("enhance", np.asarray(self._decoding(latents, index).run()["frames"]))

    def decoded(self, picture: Callable[[Array], Frames], latents: Latents, indices: Iterable[int]) -> Iterator[Frames]:
        """Each of those frames as by `decode`, and the picture of it, made while the next is decoded."""
        pixels = (np.asarray(made["frames"]) for made in run_all(self._decoding(latents, index) for index in indices))
        return ahead(lambda frame: picture(check_frames("enhance", frame)), pixels, 1)

    def _decoding(self, latents: Latents, index: int) -> Call:
        return Call(self.engines["enhance_vae_decode"], {"latents": latents[index : index + 1]})

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures that go through the autoencoder."""
        height, width = self.engines["enhance_vae_encode"].spec.inputs[0].shape[-2:]
        return width, height

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """[C, h, w] of one picture's latent."""
        return self.engines["enhance_vae_decode"].spec.inputs[0].shape[1:]
