"""The one thing in which model families differ at run time: what the steps of a chunk are conditioned on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.errors import UsageError
from stt2v.engine.media.tokenizer import Tokens
from stt2v.engine.models.mini import MiniConditions
from stt2v.engine.models.model import Model
from stt2v.engine.models.streaming_svd import StreamingSvdConditions
from stt2v.engine.models.streaming_t2v import StreamingT2vConditions
from stt2v.engine.noise import NoiseSource


class Conditions(Protocol):
    """Conditions for the first chunk and for those that follow it; keys are inputs of the step engines."""

    def first(self) -> Mapping[str, Value]: ...

    def streaming(self, chunk: int, control: Array, anchor: Array) -> Mapping[str, Value]: ...


@dataclass(frozen=True)
class Start:
    """What a video begins with; a family takes of it what it needs.

    image: [1, 3, H, W], float32, in [-1, 1]. texts: token ids of the negative and the positive prompt, [2, T], one pair
    for each chunk; the last one also serves all chunks after it.
    """

    image: Array | None = None
    texts: Sequence[Tokens] = ()


def open_conditions(model: Model, engines: Mapping[str, Engine], start: Start, noise: NoiseSource) -> Conditions:
    """The conditions of `model`'s family. Raises UsageError when `start` lacks what the family begins with."""
    return FAMILIES[model.family](engines, start, noise)


def _streaming_svd(engines: Mapping[str, Engine], start: Start, noise: NoiseSource) -> Conditions:
    if start.image is None:
        raise UsageError("StreamingSVD starts from an image, got none; give --image")
    return StreamingSvdConditions(engines, start.image, noise)


def _streaming_t2v(engines: Mapping[str, Engine], start: Start, noise: NoiseSource) -> Conditions:
    if not start.texts:
        raise UsageError("StreamingT2V starts from a prompt, got none; give --prompt")
    return StreamingT2vConditions(engines, encoded(engines["text_encoder"], start.texts))


def _mini(engines: Mapping[str, Engine], start: Start, noise: NoiseSource) -> Conditions:
    texts = encoded(engines["text_encoder"], start.texts)
    return MiniConditions(engines, texts, start.image)


def encoded(encoder: Engine, texts: Sequence[Tokens]) -> list[Value]:
    """Each of `texts`, [2, T], as [2, T, D], float32; equal ones are encoded once."""
    made: dict[bytes, Value] = {}
    for tokens in texts:
        if (key := tokens.tobytes()) not in made:
            made[key] = encoder.run({"tokens": tokens})["text"]
    return [made[tokens.tobytes()] for tokens in texts]


FAMILIES: Final[Mapping[str, Callable[[Mapping[str, Engine], Start, NoiseSource], Conditions]]] = {
    "mini": _mini,
    "streaming-svd": _streaming_svd,
    "streaming-t2v": _streaming_t2v,
}
