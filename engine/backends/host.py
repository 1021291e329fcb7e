"""The host side of an engine's border: what comes in is checked and made into arrays of the compiled type."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Values
from stt2v.engine.spec import EngineSpec

HostArrays = dict[str, npt.NDArray[Any]]


def check_inputs(spec: EngineSpec, inputs: Values) -> None:
    """Raise BackendError unless `inputs` have the names and shapes of `spec`."""
    spec.check_names(inputs)
    for tensor in spec.inputs:
        tensor.check(inputs[tensor.name].shape, spec.name)


def host_inputs(spec: EngineSpec, inputs: Values) -> HostArrays:
    """`inputs` on the host: contiguous, in the order and of the types of `spec`. Raises BackendError."""
    check_inputs(spec, inputs)
    # np.require keeps 0-d arrays as they are, np.ascontiguousarray would make them 1-d.
    return {tensor.name: np.require(inputs[tensor.name], tensor.dtype, "C") for tensor in spec.inputs}
