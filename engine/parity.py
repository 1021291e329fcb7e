"""How far an engine is from the module it was made from, measured where it runs: the rows of `parity.json`."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.errors import EngineSetError, ExportError
from stt2v.engine.manifest import PARITY
from stt2v.engine.reference import KEPT, Sample, norm, spread

Float64 = npt.NDArray[np.float64]

LIMITS = MappingProxyType({"fp32": 1e-4, "fp16": 5e-3, "fp8": 0.1})
"""Precision -> the largest rel of one call."""


@dataclass(frozen=True)
class Parity:
    """One graph's outputs beside their reference, and what running it costs.

    `rel` is ||a-b|| / ||b|| and `largest` is max|a-b| / max|b|, each the worst over the outputs; `problems` says what
    no distance can: NaN, infinity, a constant where the reference varies. `reference` says in which arithmetic that was
    made, `hardware` where the engine ran. `milliseconds` is the best of a few runs; `load_bytes` is what memory loading
    took and `run_bytes` the peak above that, of the host or the device as the backend is. `fell_back_from` are the
    precisions and backends that were tried before, each with what was wrong. One that ran out of memory does not fit.
    """

    graph: str
    rel: float
    largest: float
    limit: float
    problems: tuple[str, ...] = ()
    reference: str = "fp32"
    hardware: str = "cpu"
    milliseconds: float = 0.0
    load_bytes: int = 0
    run_bytes: int = 0
    fell_back_from: tuple[str, ...] = ()
    fits: bool = True

    @property
    def passed(self) -> bool:
        return self.rel <= self.limit and not self.problems

    @property
    def found(self) -> str:
        """How far off it is, in words."""
        return ", ".join([f"rel {self.rel:.2g}", *self.problems]) + f", limit {self.limit:g}"

    def check(self) -> None:
        """Raise ExportError unless the engine is as good as it has to be."""
        if not self.passed:
            raise ExportError(
                f"graph {self.graph!r}: the engine differs from the {self.reference} module ({self.found}); "
                "try another precision or backend"
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON, which knows no infinity: None stands for it."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Parity":
        """The inverse of `to_json`. Raises TypeError for anything else."""

        def own(value: Any) -> Any:
            return math.inf if value is None else tuple(value) if isinstance(value, list) else value

        return cls(**{key: own(value) for key, value in data.items()})


def limit_for(precision: str, reference: str) -> float:
    """The largest rel of an engine in `precision` beside one made in `reference`, whose errors count too."""
    least = 0.0 if reference == "fp32" else LIMITS["fp16"]
    return max(LIMITS[precision], least)


def compare(graph: str, actual: Mapping[str, Any], expected: Mapping[str, Sample], limit: float) -> Parity:
    """The parity of outputs `actual` with samples of those of the module.

    `rel` is of the values that were kept, or how much the norm of a whole output is off where that is more: whatever
    lies between the kept values shows there when it is large.
    """
    whole = {name: np.asarray(actual[name]) for name in expected}
    problems = tuple(problem for name, sample in expected.items() for problem in _problems(name, whole[name], sample))
    pairs = [(spread(whole[name], KEPT).astype(np.float64), _float64(e.values)) for name, e in expected.items()]
    norms = [(norm(whole[name]), sample.norm) for name, sample in expected.items()]
    return Parity(
        graph,
        max(*(_ratio(a - b, b, norm) for a, b in pairs), *(_ratio(a - b, b, abs) for a, b in norms)),
        max(_ratio(a - b, b, _largest) for a, b in pairs),
        limit,
        problems,
    )


def write_parity(directory: Path, table: Iterable[Parity]) -> None:
    """Write `parity.json` into `directory`, whole or not at all."""
    rows = [row.to_json() for row in table]
    part = directory / f".{PARITY}.{os.getpid()}"
    part.write_text(json.dumps(rows, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(directory / PARITY)


def read_parity(directory: Path) -> tuple[Parity, ...]:
    """The table in `directory`, empty when none was made. Raises EngineSetError for a damaged one."""
    path = directory / PARITY
    if not path.is_file():
        return ()
    try:
        return tuple(map(Parity.from_json, json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, TypeError, AttributeError) as exc:
        raise EngineSetError(f"{path}: is no certificate ({exc}); make it again with `stt2v engines verify`") from exc


def _float64(value: Any) -> Float64:
    return np.asarray(value).astype(np.float64)


def _largest(values: Float64) -> Any:
    return np.abs(values).max()


def _ratio(difference: Any, reference: Any, measure: Callable[[Any], Any]) -> float:
    """measure(difference) / measure(reference): 0 when both are zero, infinite when anything is not finite."""
    error, scale = float(measure(difference)), float(measure(reference))
    if error == 0.0:
        return 0.0
    return error / scale if np.isfinite(error) and scale > 0.0 else math.inf


def _problems(name: str, actual: npt.NDArray[Any], expected: Sample) -> Iterator[str]:
    if actual.shape != expected.shape:
        raise ExportError(f"output {name!r} has shape {list(actual.shape)}, its module gives {list(expected.shape)}")
    if np.isnan(actual).any():
        yield f"{name} has NaN"
    if np.isinf(actual).any():
        yield f"{name} has infinities"
    if actual.size > 1 and actual.min() == actual.max() and not expected.constant:
        yield f"{name} is constant"
