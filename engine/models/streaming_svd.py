"""StreamingSVD: an image becomes a video. How its chunks are conditioned.

The first chunk is stock SVD-XT (Blattmann et al. 2023). Each later chunk sees the last frames of the one before
through the control branch and CAM (short-term memory), and one frame of the first chunk, the anchor, through CLIP and
the concatenated latent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.models.i2vgen_xl import I2VGEN_XL
from stt2v.engine.models.model import Denoising, Model
from stt2v.engine.noise import NoiseSource


@dataclass(frozen=True)
class MicroConditions:
    """The numbers that SVD takes beside the image: frames a second less one, a motion bucket, the image's noise."""

    frame_rate_id: float = 6.0
    motion_bucket: float = 127.0
    augmentation: float = 0.02

    def vector(self) -> Array:
        """As the conditions' engine takes them: [3], float32."""
        return np.array([self.frame_rate_id, self.motion_bucket, self.augmentation], np.float32)


MICRO_CONDITIONS = MicroConditions()

STREAMING_SVD = Model(
    name="streaming-svd",
    family="streaming-svd",
    summary="StreamingSVD: an image becomes a 1024x576 video",
    width=1024,
    height=576,
    chunk=25,
    conditional=7,
    anchor=6,
    first=Denoising("karras", 25, (1.0, 3.0)),
    streaming=Denoising("align-your-steps", 30, (1.5, 3.0)),
    decode_group=8,
    num_frames=200,
    fps=24.0,
    inputs=("image", "prompt"),
    first_through_8_bits=True,
    enhancing=I2VGEN_XL,
    interpolate=True,
)


class StreamingSvdConditions:
    """What the steps of each chunk are conditioned on.

    image: [1, 3, H, W], float32, in [-1, 1].
    """

    def __init__(
        self, engines: Mapping[str, Engine], image: Array, noise: NoiseSource, micro: MicroConditions = MICRO_CONDITIONS
    ) -> None:
        self._engines = engines
        self._image = image
        self._noise = noise
        self._micro = micro
        self._anchor_embedding: Value | None = None

    def first(self) -> dict[str, Value]:
        """Conditions of the first chunk."""
        noise = self._noise.normal("first-image", 0, 0, self._image.shape)
        inputs = {"embedding": self._embed(self._image), "vector": self._micro.vector()}
        return {**self._run("first_conditions", inputs), "image_latent": self._image_latent(self._image, noise)}

    def streaming(self, chunk: int, control: Array, anchor: Array) -> dict[str, Value]:
        """Conditions of chunk number `chunk` (from 1).

        control: [Fc, 3, H, W], anchor: [1, 3, H, W], float32, in [-1, 1].
        """
        if self._anchor_embedding is None:
            self._anchor_embedding = self._embed(anchor)
        # The reference augments the anchor with uniform noise where SVD was trained with Gaussian: kept for parity.
        noise = self._noise.uniform("anchor-image", chunk, 0, anchor.shape)
        inputs = {"embedding": self._anchor_embedding, "vector": self._micro.vector(), "control_frames": control}
        return {**self._run("conditions", inputs), "image_latent": self._image_latent(anchor, noise)}

    def _embed(self, image: Array) -> Value:
        return self._run("image_encoder", {"image": image})["embedding"]

    def _image_latent(self, image: Array, noise: Array) -> Array:
        """The latent that is concatenated to every frame: [2, 4, h, w], zeros for the unconditional half."""
        augmented = image + np.float32(self._micro.augmentation) * noise
        latent = np.asarray(self._run("vae_encode", {"image": augmented})["latent"])
        return np.concatenate([np.zeros_like(latent), latent])

    def _run(self, graph: str, inputs: Mapping[str, Value]) -> dict[str, Value]:
        return self._engines[graph].run(inputs)
