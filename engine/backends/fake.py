"""A backend without compiled files: cheap arithmetic of the right shapes, for tests and development.

The whole loop runs with it in milliseconds, and a change of any input, weight of the plan or seed is seen in the
frames, because every output depends on every input.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stt2v.engine.backends.base import Closing, Value, Values, WholeEngines
from stt2v.engine.backends.host import HostArrays, host_inputs
from stt2v.engine.backends.memory import HostMeter, Meter
from stt2v.engine.errors import BackendError
from stt2v.engine.spec import EngineSpec

Function = Callable[[EngineSpec, HostArrays], HostArrays]


def blend(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    """Every output as the tanh of a weighted sum of all inputs, each repeated or cut to the output's shape."""
    outputs = {}
    for place, tensor in enumerate(spec.outputs):
        total = np.full(tensor.shape, 0.1 * place, np.float64)
        for number, array in enumerate(inputs.values(), start=1):
            total += np.resize(array.astype(np.float64), tensor.shape) / number
        outputs[tensor.name] = np.tanh(total).astype(tensor.dtype)
    return outputs


class FakeEngine(Closing):
    """An engine made of a Python function `(spec, inputs) -> outputs`."""

    def __init__(self, spec: EngineSpec, function: Function = blend) -> None:
        self.spec = spec
        self._function: Function | None = function

    def run(self, inputs: Values) -> dict[str, Value]:
        if self._function is None:
            raise BackendError(f"engine {self.spec.name!r} is closed; load it again")
        return dict(self._function(self.spec, host_inputs(self.spec, inputs)))

    def close(self) -> None:
        self._function = None


class FakeBackend(WholeEngines):
    """Loads nothing: the file is not even opened."""

    name = hardware = "fake"
    meter: Meter = HostMeter()

    def load(self, path: Path, spec: EngineSpec) -> FakeEngine:
        return FakeEngine(spec)
