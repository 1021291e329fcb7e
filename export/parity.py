"""Parity: an engine beside the fp32 module it was made from, on seeded inputs in plausible ranges."""

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Engine
from stt2v.engine.parity import Parity, compare
from stt2v.engine.solver import COEFFICIENTS
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[Any]]


def _coefficients(random: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """One Euler step between two noise levels, v-prediction (Karras et al. 2022, as `engine/solver.py` writes it)."""
    sigma = random.uniform(1.0, 4.0)
    shrink = random.uniform(0.7, 0.9)  # sigma of the next step over this one's
    step = dict.fromkeys(COEFFICIENTS, 0.1) | {
        "c_in": 1 / np.sqrt(sigma**2 + 1),
        "timestep": 0.25 * np.log(sigma),
        "c_skip": 1 / (sigma**2 + 1),
        "c_out": -sigma / np.sqrt(sigma**2 + 1),
        "k_x": shrink,
        "k_x0": 1 - shrink,
    }
    return np.array([step[name] for name in COEFFICIENTS]).reshape(shape)


RANGES: dict[str, Draw] = {
    "coefficients": _coefficients,
    "guidance": lambda random, shape: random.uniform(1.0, 3.0, shape),
    "timestep": lambda random, shape: random.uniform(0.0, 1.0, shape),
    "image[01]": lambda random, shape: random.uniform(0.0, 1.0, shape),
    "*image*": lambda random, shape: random.uniform(-1.0, 1.0, shape),
    "*frame*": lambda random, shape: random.uniform(-1.0, 1.0, shape),
    "*": lambda random, shape: random.standard_normal(shape),
}
"""Name pattern of a floating-point input -> how its values are drawn; the first match counts."""


def seeded_inputs(graph: Graph, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Inputs for `graph`. Integers and booleans mean something (tokens, indices), so their examples are kept."""
    random = np.random.default_rng(seed)
    inputs = {}
    for name, example in graph.inputs.items():
        array = example.detach().cpu().numpy()
        if example.is_floating_point():
            draw = next(draw for pattern, draw in RANGES.items() if fnmatch.fnmatchcase(name, pattern))
            array = np.asarray(draw(random, tuple(example.shape)), array.dtype)
        inputs[name] = array
    return inputs


def parity_of(engine: Engine, graph: Graph, precision: str, seed: int = 0) -> Parity:
    """`engine` beside the module of `graph`, which is in float32. Raises BackendError when the engine does not run."""
    inputs = seeded_inputs(graph, seed)
    actual = engine.run(inputs)
    with EagerEngine(graph, engine.spec) as reference:
        return compare(graph.name, actual, reference.run(inputs), precision)
