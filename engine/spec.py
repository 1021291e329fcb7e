"""What an engine takes and gives: named tensors of fixed shape and type."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stt2v.engine.errors import BackendError
from stt2v.engine.typed_json import read_as


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor at the border of an engine; `dtype` is NumPy's name for it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def check(self, shape: tuple[int, ...], engine: str) -> None:
        """Raise BackendError unless `shape` is the one that was compiled."""
        if tuple(shape) != self.shape:
            raise BackendError(
                f"engine {engine!r}: input {self.name!r} has shape {list(shape)}, it was compiled for "
                f"{list(self.shape)}; build an engine set for this size"
            )


@dataclass(frozen=True)
class EngineSpec:
    """The border of one engine: its name, inputs and outputs, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check_names(self, names: Mapping[str, Any]) -> None:
        """Raise BackendError unless `names` are exactly the inputs."""
        expected = {tensor.name for tensor in self.inputs}
        if expected != set(names):
            missing, over = sorted(expected - set(names)), sorted(set(names) - expected)
            raise BackendError(f"engine {self.name!r}: inputs missing: {missing}, not known: {over}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EngineSpec":
        """The inverse of `to_json`. Raises TypeError for anything else."""
        spec: EngineSpec = read_as(cls, data)
        return spec
