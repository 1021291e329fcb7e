"""The first tensor in which two ONNX models of one graph part, such as an engine in half precision and one in float32.

Both are run with some of their inner tensors as further outputs, evenly spread over the graph; then the search goes on
between the last that agree and the first that do not. So only a few tensors are held at once, and a graph of thousands
takes three or four runs. It takes for granted that what went wrong stays wrong further on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from polygraphy.backend.onnx import infer_shapes, modify_outputs, onnx_from_path, save_onnx
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.logger import G_LOGGER

from stt2v.engine.backends.base import Array
from stt2v.engine.errors import UsageError
from stt2v.engine.parity import compare
from stt2v.engine.reference import Sample

AT_ONCE = 16  # tensors that are looked at in one run
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Place:
    """A tensor of the graph: its number among those that both models have, what makes it, and how far it is off."""

    number: int
    tensor: str
    operation: str
    rel: float = 0.0
    largest: float = 0.0
    problems: tuple[str, ...] = ()
    agrees: bool = True

    def measured(self, actual: Array, expected: Array, limit: float) -> "Place":
        """With how far `actual` is off."""
        row = compare("", {self.tensor: actual}, {self.tensor: Sample.of(expected)}, limit)
        problems = tuple(problem.removeprefix(f"{self.tensor} ") for problem in row.problems)
        return replace(self, rel=row.rel, largest=row.largest, problems=problems, agrees=row.passed)

    def to_json(self) -> dict[str, Any]:
        """As JSON, which knows no infinity: None stands for it."""
        return {key: None if value == np.inf else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Bisection:
    """What a search found. tensors: how many both models have; bad: None when all that were looked at agree."""

    graph: str
    limit: float
    tensors: int
    looked_at: tuple[Place, ...]
    bad: Place | None

    def lines(self) -> list[str]:
        """The table, and the answer."""
        rows = [
            f"  {place.number:5} {place.rel:9.2e} {place.largest:9.2e}  {place.operation:24} {place.tensor}"
            f"{'  ' + ', '.join(place.problems) if place.problems else ''}"
            for place in sorted(self.looked_at, key=lambda place: place.number)
        ]
        answer = f"all {len(rows)} tensors that were looked at are within {self.limit:g}"
        if self.bad:
            answer = f"first bad: {self.bad.tensor}, made by {self.bad.operation} (rel {self.bad.rel:.2g}"
            answer += f", {', '.join(self.bad.problems)})" if self.bad.problems else ")"
        return [f"{self.graph}: {self.tensors} tensors in common, limit {self.limit:g}", *rows, answer]

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        places = [place.to_json() for place in sorted(self.looked_at, key=lambda place: place.number)]
        bad = self.bad.to_json() if self.bad else None
        return {"graph": self.graph, "limit": self.limit, "tensors": self.tensors, "looked_at": places, "bad": bad}


def bisect(graph: str, engine: Path, reference: Path, inputs: Arrays, limit: float) -> Bisection:
    """Search the ONNX file `engine` for the first tensor that is more than `limit` from that of `reference`.

    Tensors are compared where both have one of the same name and shape. Raises UsageError when they have none.
    """
    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        models = [infer_shapes(onnx_from_path(str(path))) for path in (engine, reference)]
    made_by = _common(*models)
    if not made_by:
        raise UsageError(f"graph {graph!r}: {engine} has no tensor in common with the reference; give another graph")
    names = list(made_by)
    seen: dict[int, Place] = {}
    low, high = -1, len(names) - 1  # all up to `low` agree; if any does not, the first is at most `high`
    while high - low > 1 or not seen:
        for number in (numbers := _spread(low, high)):
            seen[number] = Place(number, names[number], made_by[names[number]])
        with G_LOGGER.verbosity(G_LOGGER.ERROR):
            outputs = [_run(model, [names[number] for number in numbers], inputs) for model in models]
        for number, actual, expected in zip(numbers, *outputs, strict=True):
            seen[number] = seen[number].measured(actual, expected, limit)
        bad = [number for number in numbers if not seen[number].agrees]
        if not bad:
            return Bisection(graph, limit, len(names), tuple(seen.values()), None)
        high = min(bad)
        low = max((number for number in numbers if number < high), default=low)
    return Bisection(graph, limit, len(names), tuple(seen.values()), seen[high])


def _spread(low: int, high: int) -> list[int]:
    """Up to `AT_ONCE` numbers above `low`, evenly spread; `high` is the last."""
    return sorted({low + -(-(high - low) * part // AT_ONCE) for part in range(1, AT_ONCE + 1)})


def _common(engine: onnx.ModelProto, reference: onnx.ModelProto) -> dict[str, str]:
    """Names of the floating-point tensors that both models make, in the engine's order -> the operation.

    The exporter numbers what it adds itself ("val_17"), so those names say nothing across two exports.
    """
    shapes = dict(_shapes(engine).items() & _shapes(reference).items())
    return {
        name: node.op_type
        for node in engine.graph.node
        for name in node.output
        if name in shapes and not name.startswith("val_")
    }


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Of the tensors of floating-point type."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return {
        value.name: tuple(side.dim_value for side in value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type in floats
    }


def _run(model: onnx.ModelProto, names: Sequence[str], inputs: Arrays) -> list[Array]:
    """The tensors `names` of one run, as float32."""
    with TemporaryDirectory(prefix="stt2v-bisect-") as folder:
        path = Path(folder) / "model.onnx"
        marked = modify_outputs(model, outputs=list(names), copy=True)
        save_onnx(marked, str(path), external_data_path="weights.bin", size_threshold=1024)
        with OnnxrtRunner(SessionFromOnnx(str(path), providers=["cpu"])) as runner:
            outputs = runner.infer(dict(inputs))
            return [np.array(outputs[name], np.float32) for name in names]
