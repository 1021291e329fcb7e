"""The one thing in which model families differ at run time: what the steps of a chunk are conditioned on."""

from collections.abc import Mapping
from typing import Protocol

from stt2v.engine.backends.base import Array, Engine, Value
from stt2v.engine.models.model import Model
from stt2v.engine.models.streaming_svd import StreamingSvdConditions
from stt2v.engine.noise import NoiseSource


class Conditions(Protocol):
    """Conditions for the first chunk and for those that follow it; keys are inputs of the step engines."""

    def first(self) -> Mapping[str, Value]: ...

    def streaming(self, chunk: int, control: Array, anchor: Array) -> Mapping[str, Value]: ...


def open_conditions(model: Model, engines: Mapping[str, Engine], image: Array, noise: NoiseSource) -> Conditions:
    """The conditions of `model`'s family. image: [1, 3, H, W], float32, in [-1, 1]."""
    return {"streaming-svd": StreamingSvdConditions}[model.family](engines, image, noise)
