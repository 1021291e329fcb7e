"""StreamingT2V: a text becomes a video. How its chunks are conditioned.

The first chunk is ModelScope's text-to-video (Wang et al. 2023). Each later chunk sees the last frames of the one
before through the control net and CAM (short-term memory), and the first frame of all, the anchor, through APM
(long-term memory).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.models.model import Denoising, Model
from stt2v.engine.models.vid2vid import VID2VID

STREAMING_T2V = Model(
    name="streaming-t2v",
    family="streaming-t2v",
    summary="StreamingT2V: a text becomes a 256x256 video, enhanced to 720x720",
    width=256,
    height=256,
    chunk=16,
    conditional=8,
    anchor=0,
    first=Denoising("modelscope", 50, (9.0, 9.0)),
    streaming=Denoising("modelscope-ancestral", 50, (7.5, 7.5)),
    decode_group=16,
    num_frames=80,
    fps=8.0,
    inputs=("prompt",),
    first_chunks=("modelscope", "animatediff", "svd"),
    prompt_per_chunk=True,
    enhancing=VID2VID,
)


class StreamingT2vConditions:
    """What the steps of each chunk are conditioned on.

    texts: [2, T, D] each, the negative prompt first, from the engine `text_encoder`; one for each chunk, and the last
    one also for all chunks after it.
    """

    def __init__(self, engines: Mapping[str, Engine], texts: Sequence[Value]) -> None:
        self._engines = engines
        self._texts = texts
        self._image_tokens: Value | None = None

    def first(self) -> dict[str, Value]:
        """Conditions of the first chunk."""
        return self._engines["first_conditions"].run({"text": self._texts[0]})

    def streaming(self, chunk: int, control: Array, anchor: Array) -> dict[str, Value]:
        """Conditions of chunk number `chunk` (from 1).

        control: [Fc, 3, H, W], anchor: [1, 3, H, W], float32, about [-1, 1]; the reference hands over clipped pixels.
        """
        if self._image_tokens is None:
            self._image_tokens = self.tokens(anchor)
        return self.conditions(chunk, control, self._image_tokens)

    def tokens(self, anchor: Array) -> Value:
        """The image tokens of an anchor frame."""
        return self._engines["anchor"].run({"anchor": np.clip(anchor, -1, 1)})["image_tokens"]

    def conditions(self, chunk: int, control: Array, image_tokens: Value) -> dict[str, Value]:
        """All that is told of chunk number `chunk`."""
        text = self._texts[min(chunk, len(self._texts) - 1)]
        inputs = {"text": text, "image_tokens": image_tokens, "control_frames": np.clip(control, -1, 1)}
        return self._engines["conditions"].run(inputs)
