"""`mini`: StreamingT2V at small width, trained by `export/mini` on a world that renders itself.

One network makes all chunks: what a first chunk has before it is grey, or the picture that it should begin with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.models.model import Denoising, Enhancing, Model
from stt2v.engine.models.streaming_t2v import StreamingT2vConditions

MINI_ENHANCER = Enhancing("mini-enhancer", 128, 128, window=16, overlap=8, steps=16)

STRENGTH = 0.5  # of SDEdit: the share of the steps that is done

MINI = Model(
    name="mini",
    family="mini",
    summary="small and trained here: emoji and shapes that move over plain backgrounds, 128x128, on any processor",
    width=64,
    height=64,
    chunk=16,
    conditional=8,
    anchor=0,
    first=Denoising("cosine", 20, (2.5, 2.5)),
    streaming=Denoising("cosine", 20, (2.5, 2.5)),
    decode_group=16,
    num_frames=80,
    fps=16.0,
    inputs=("prompt", "image"),
    prompt_per_chunk=True,
    one_network=True,
    replaces=True,
    latent_channels=16,
    enhancing=MINI_ENHANCER,
    interpolate=True,
)


@dataclass(frozen=True)
class MiniEnhancerSettings:
    """How the enhancer samples: the share `strength` of `steps`, without guidance."""

    window: int = MINI_ENHANCER.window
    overlap: int = MINI_ENHANCER.overlap
    steps: int = MINI_ENHANCER.steps
    strength: float = STRENGTH


ENHANCER = MiniEnhancerSettings()


def run_steps(steps: int) -> int:
    """How many steps are done of so many."""
    return int(steps * STRENGTH)


def wording(prompt: str | None, negative: str | None) -> tuple[str, str]:
    """Positive and negative prompt; the enhancer knows no words of praise, and does not look at the latter."""
    return prompt or "", negative or ""


class MiniConditions(StreamingT2vConditions):
    """What the steps of each chunk are conditioned on. image: [1, 3, H, W], float32, in [-1, 1], or None."""

    def __init__(self, engines: Mapping[str, Engine], texts: Sequence[Value], image: Array | None) -> None:
        super().__init__(engines, texts)
        grey = np.zeros((1, 3, MINI.height, MINI.width), np.float32)
        self._start = grey if image is None else image

    def first(self) -> dict[str, Value]:
        """Conditions of the first chunk: the start as its anchor and as a still before it."""
        return self.conditions(0, np.repeat(self._start, MINI.conditional, axis=0), self.tokens(self._start))
