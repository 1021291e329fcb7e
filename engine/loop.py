"""The one autoregressive loop: condition, denoise, decode, hand over, for every model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.models.conditions import Conditions
from stt2v.engine.models.model import Denoising, Model
from stt2v.engine.noise import NoiseSource, OtherNoise
from stt2v.engine.schedules import SCHEDULES
from stt2v.engine.stages.decode import decode, through_8_bits
from stt2v.engine.stages.denoise import GuidedStep, ReplacingStep, Trajectory, denoise, guided_step

OnStep = Callable[[int, int, float, Value], Value]
"""Called after each step with the chunk's and the step's index, the timestep and the latents; returns the latents."""

Settle = Callable[[int, Array, Callable[[int], Array]], Array]
"""Called for each later chunk with its index, the frame before it, [3, H, W], and what makes its new frames from the
noise of an attempt; returns the frames to go on with."""


def first_attempt(chunk: int, before: Array, make: Callable[[int], Array]) -> Array:
    """Take what comes."""
    return make(0)


@dataclass(frozen=True)
class Handover:
    """All that chunk `chunk` needs of those before it.

    control: the last frames before it, [Fc, 3, H, W], anchor: [1, 3, H, W]; as decoded, float32, in [-1, 1].
    """

    chunk: int
    control: Array
    anchor: Array


@dataclass(frozen=True)
class Loop:
    """Everything that chunks are made of.

    streaming: in place of the model's own settings for the later chunks; given: the first chunk where it was made
    elsewhere, [F, 3, H, W], float32, in [-1, 1].
    """

    model: Model
    engines: Mapping[str, Engine]
    conditions: Conditions
    noise: NoiseSource
    streaming: Denoising
    on_step: OnStep
    given: Array | None = None
    settle: Settle = first_attempt

    def chunks(self, count: int, after: Handover | None = None) -> Iterator[Array]:
        """New frames of the chunks up to number `count`, from the first or from `after`: [n, 3, H, W], float32.

        The first has all frames of a chunk, each later one those after its conditional frames. The hand-over is in
        pixels, in [-1, 1]: a chunk's last frames are the next one's control frames.
        """
        if after is None:
            frames = self.first_chunk()
            yield frames
            after = Handover(1, frames[-self.model.conditional :], frames[self.model.anchor][None])
        control = after.control
        for index in range(after.chunk, count):
            frames = self._settled(index, control, after.anchor)
            yield frames
            control = frames[-self.model.conditional :]

    def _settled(self, index: int, control: Array, anchor: Array) -> Array:
        """The new frames of chunk `index`."""
        conditional = self.model.conditional
        return self.settle(
            index, control[-1], lambda attempt: self.next_chunk(index, control, anchor, attempt)[conditional:]
        )

    def first_chunk(self) -> Array:
        """All frames of the first chunk: [F, 3, H, W]."""
        if self.given is not None:
            return self.given
        step = guided_step(self.engines, "step" if self.model.one_network else "first_step")
        latents = self._denoise(step, 0, self.model.first, self.conditions.first(), self.noise)
        frames = self._decode(latents)
        return through_8_bits(frames) if self.model.first_through_8_bits else frames

    def next_chunk(self, index: int, control: Array, anchor: Array, attempt: int = 0) -> Array:
        """All frames of chunk `index`, conditional ones included: [F, 3, H, W]; each attempt has noise of its own.

        control: [Fc, 3, H, W], anchor: [1, 3, H, W], float32, in [-1, 1].
        """
        conditions = self.conditions.streaming(index, control, anchor)
        noise = OtherNoise(self.noise, attempt) if attempt else self.noise
        step: GuidedStep = guided_step(self.engines)
        if self.model.replaces:
            known = self.engines["vae_encode"].run({"image": control})["latents"]
            step = ReplacingStep(step, np.asarray(known))
        return self._decode(self._denoise(step, index, self.streaming, conditions, noise))

    def _decode(self, latents: Value) -> Array:
        return decode(self.engines, latents, self.model.decode_group)

    def _denoise(
        self, step: GuidedStep, chunk: int, how: Denoising, conditions: Mapping[str, Value], noise: NoiseSource
    ) -> Value:
        schedule = SCHEDULES[how.schedule](how.steps)
        shape = self.model.latent_shape
        guidance = np.linspace(*how.guidance, shape[0], dtype=np.float32)
        start = noise.normal("latents", chunk, 0, shape) * np.float32(schedule.initial_scale)
        return denoise(
            step,
            start,
            conditions,
            Trajectory(schedule.table, guidance, "latents", chunk),
            noise,
            lambda index, timestep, latents: self.on_step(chunk, index, timestep, latents),
        )
