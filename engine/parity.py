"""How far an engine is from the fp32 module it was made from: the table in `parity.json`."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.errors import ExportError
from stt2v.engine.manifest import PARITY

Float64 = npt.NDArray[np.float64]

LIMITS = MappingProxyType({"fp32": 1e-4, "fp16": 5e-3, "fp8": 0.1})
"""Precision -> the largest rel of one call."""


@dataclass(frozen=True)
class Parity:
    """One graph's outputs beside their reference.

    `rel` is ||a-b|| / ||b|| and `largest` is max|a-b| / max|b|, each the worst over the outputs; `problems` says what
    no distance can: NaN, infinity, a constant where the reference varies.
    """

    graph: str
    rel: float
    largest: float
    limit: float
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.rel <= self.limit and not self.problems

    def check(self) -> None:
        """Raise ExportError unless the engine is as good as it has to be."""
        if not self.passed:
            found = ", ".join([f"rel {self.rel:.2g}", *self.problems])
            raise ExportError(
                f"graph {self.graph!r}: the engine differs from the fp32 module ({found}), limit {self.limit:g}; "
                "try another precision or backend"
            )


def compare(graph: str, actual: Mapping[str, Any], expected: Mapping[str, Any], precision: str) -> Parity:
    """The parity of outputs `actual`, of an engine in `precision`, with `expected`, those of the fp32 module."""
    pairs = {name: (_float64(actual[name]), _float64(value)) for name, value in expected.items()}
    problems = tuple(problem for name, (a, b) in pairs.items() for problem in _problems(name, a, b))
    return Parity(
        graph,
        max(_ratio(a - b, b, np.linalg.norm) for a, b in pairs.values()),
        max(_ratio(a - b, b, _largest) for a, b in pairs.values()),
        LIMITS[precision],
        problems,
    )


def write_parity(directory: Path, table: Iterable[Parity]) -> None:
    """Write `parity.json` into `directory`."""
    rows = [asdict(row) for row in table]
    (directory / PARITY).write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_parity(directory: Path) -> tuple[Parity, ...]:
    """The table in `directory`, empty when none was made. The file is covered by the manifest's hashes."""
    path = directory / PARITY
    if not path.is_file():
        return ()
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Parity(**{**row, "problems": tuple(row["problems"])}) for row in rows)


def _float64(value: Any) -> Float64:
    return np.asarray(value).astype(np.float64)


def _largest(values: Float64) -> Any:
    return np.abs(values).max()


def _ratio(difference: Float64, reference: Float64, measure: Callable[[Float64], Any]) -> float:
    """measure(difference) / measure(reference): 0 when both are zero, infinite when anything is not finite."""
    error, scale = float(measure(difference)), float(measure(reference))
    if error == 0.0:
        return 0.0
    return error / scale if np.isfinite(error) and scale > 0.0 else float("inf")


def _problems(name: str, actual: Float64, expected: Float64) -> Iterator[str]:
    if actual.shape != expected.shape:
        raise ExportError(f"output {name!r} has shape {list(actual.shape)}, its module gives {list(expected.shape)}")
    if np.isnan(actual).any():
        yield f"{name} has NaN"
    if np.isinf(actual).any():
        yield f"{name} has infinities"
    if actual.size > 1 and np.ptp(actual) == 0.0 and np.ptp(expected) > 0.0:
        yield f"{name} is constant"
