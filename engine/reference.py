"""What an engine is held against where it runs: inputs, and what its graph gave for them in full precision.

    step.reference.safetensors    beside `step.onnx`, some 20 kB an output, written when the set is built

Small inputs are kept as they are, large ones are drawn again from a seed. Of an output some thousand values are kept,
spread over all of it, and the norm of the whole. Nothing here needs torch.
"""

import fnmatch
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stt2v.engine.errors import EngineSetError
from stt2v.engine.solver import COEFFICIENTS
from stt2v.engine.spec import EngineSpec, TensorSpec

AnyArray = npt.NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], AnyArray]

KEPT = 4096  # values of a tensor
PROBES = 16  # values of an input that is drawn again, to see that it is the same
GOLDEN = (5**0.5 - 1) / 2


def _coefficients(random: np.random.Generator, shape: tuple[int, ...]) -> AnyArray:
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


def drawn_input(tensor: TensorSpec, seed: int) -> AnyArray:
    """Plausible values for a floating-point input; those of one input depend on its name, shape and `seed` alone."""
    draw = next(draw for pattern, draw in RANGES.items() if fnmatch.fnmatchcase(tensor.name, pattern))
    random = np.random.default_rng([seed, *tensor.name.encode()])
    return np.asarray(draw(random, tensor.shape), tensor.dtype)


def spread(array: AnyArray, count: int) -> AnyArray:
    """All values of `array`, or `count` of them at the places of a Weyl sequence, which fall on no grid: [n]."""
    flat = array.reshape(-1)
    if flat.size <= count:
        return flat
    return flat[(np.arange(count) * GOLDEN % 1.0 * flat.size).astype(np.int64)]


def norm(array: AnyArray) -> float:
    """Euclidean, added up in float64 without a copy of a large array."""
    flat = array.reshape(-1)
    return float(np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64)))


@dataclass(frozen=True)
class Sample:
    """An output, in short. values: [up to 4096], float32, at the places of `spread`; the rest is of the whole."""

    values: npt.NDArray[np.float32]
    shape: tuple[int, ...]
    norm: float
    constant: bool

    @classmethod
    def of(cls, output: Any) -> "Sample":
        array = np.asarray(output)
        return cls(spread(array, KEPT).astype(np.float32), array.shape, norm(array), bool(array.min() == array.max()))


@dataclass(frozen=True)
class Reference:
    """Inputs of one graph and samples of what it gives for them. `made_in`: in which arithmetic, in words.

    kept: inputs that are stored whole; probes: of every other, some values.
    """

    made_in: str
    seed: int
    kept: Mapping[str, AnyArray]
    probes: Mapping[str, AnyArray]
    outputs: Mapping[str, Sample]

    @classmethod
    def of(cls, inputs: Mapping[str, AnyArray], outputs: Mapping[str, Any], seed: int, made_in: str) -> "Reference":
        """From `inputs` of which the large floating-point ones are `drawn_input` with `seed`."""
        drawn = {name for name, array in inputs.items() if array.size > KEPT and array.dtype.kind == "f"}
        return cls(
            made_in,
            seed,
            {name: array for name, array in inputs.items() if name not in drawn},
            {name: spread(inputs[name], PROBES) for name in drawn},
            {name: Sample.of(output) for name, output in outputs.items()},
        )

    def inputs(self, spec: EngineSpec) -> dict[str, AnyArray]:
        """All inputs of the engine. Raises EngineSetError when they are not those of the build."""
        arrays = {t.name: self.kept[t.name] if t.name in self.kept else drawn_input(t, self.seed) for t in spec.inputs}
        for name, probes in self.probes.items():
            if not np.allclose(spread(arrays[name], PROBES), probes, rtol=1e-3, atol=1e-6):
                raise EngineSetError(
                    f"engine {spec.name!r}: NumPy {np.__version__} draws other test inputs than the one of the build; "
                    "build the set again with this one"
                )
        return arrays


def reference_file(directory: Path, graph: str) -> Path:
    """Where the reference of a graph is kept in the set."""
    return directory / f"{graph}.reference.safetensors"


def write_reference(directory: Path, graph: str, reference: Reference) -> Path:
    """Write it beside the engine."""
    tensors = {
        **{f"kept.{name}": np.ascontiguousarray(array).reshape(array.shape) for name, array in reference.kept.items()},
        **{f"probe.{name}": array for name, array in reference.probes.items()},
        **{f"output.{name}": sample.values for name, sample in reference.outputs.items()},
    }
    facts = {
        "made_in": reference.made_in,
        "seed": reference.seed,
        "outputs": {
            name: {"shape": sample.shape, "norm": sample.norm, "constant": sample.constant}
            for name, sample in reference.outputs.items()
        },
    }
    path = reference_file(directory, graph)
    save_file(tensors, path, metadata={"facts": json.dumps(facts, sort_keys=True)})
    return path


def read_reference(directory: Path, graph: str) -> Reference | None:
    """The reference of a graph, None where the build made none. Raises EngineSetError for a damaged file."""
    path = reference_file(directory, graph)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
        return _parsed(facts, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
        raise EngineSetError(f"{path}: is no reference of an engine ({exc}); build the set again") from exc


def _parsed(facts: Mapping[str, Any], tensors: Mapping[str, AnyArray]) -> Reference:
    def kind(prefix: str) -> dict[str, AnyArray]:
        return {key.removeprefix(prefix): array for key, array in tensors.items() if key.startswith(prefix)}

    values = kind("output.")
    outputs = {
        name: Sample(values[name], tuple(about["shape"]), float(about["norm"]), bool(about["constant"]))
        for name, about in facts["outputs"].items()
    }
    return Reference(facts["made_in"], facts["seed"], kind("kept."), kind("probe."), outputs)
