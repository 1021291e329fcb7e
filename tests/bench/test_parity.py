"""Where an engine and its reference part."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import toys

from stt2v.bench.bisect import Bisection, bisect
from stt2v.bench.parity import measure, search
from stt2v.cli import main
from stt2v.engine.errors import UsageError
from stt2v.engine.progress import Silent
from stt2v.engine.store import SHIPPED
from stt2v.export.build import build_engine_set
from stt2v.export.capture import program_from_graph
from stt2v.export.precision import in_precision
from stt2v.export.reference import seeded_inputs
from stt2v.export.to_onnx import onnx_from_program, save_onnx
from stt2v.export.weight_file import WeightFile


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ir.Model]:
    """The toy step in both precisions."""
    return {p: onnx_from_program(program_from_graph(in_precision(toys.step(), p))) for p in ("fp32", "fp16")}


def written(model: ir.Model, folder: Path) -> Path:
    folder.mkdir()
    with WeightFile(folder / "weights.bin") as weights:
        save_onnx(model.clone(), folder / "step.onnx", weights)
    return folder / "step.onnx"


def searched(
    models: dict[str, ir.Model], tmp_path: Path, limit: float, poison: str = "", value: float = 0
) -> Bisection:
    """fp16 beside fp32, with a weight of the former spoilt."""
    engine = models["fp16"].clone()
    spoilt = [v for v in engine.graph.initializers.values() if poison and str(v.name).endswith(poison)]
    for weight in spoilt:
        weight.const_value = ir.tensor(np.full_like(weight.const_value.numpy(), value), name=weight.name)
    assert bool(spoilt) == bool(poison)
    paths = written(engine, tmp_path / "engine"), written(models["fp32"], tmp_path / "exact")
    return bisect("step", *paths, seeded_inputs(toys.step()), limit)


def test_two_precisions_agree(models: dict[str, ir.Model], tmp_path: Path) -> None:
    found = searched(models, tmp_path, 5e-3)
    assert found.bad is None
    assert found.tensors > 25
    assert "all 16 tensors that were looked at are within 0.005" in found.lines()[-1]


@pytest.mark.parametrize(
    ("poison", "value", "operation", "problem"),
    [
        ("conv.bias", np.nan, "Conv", ("has NaN",)),
        ("up.bias", 9, "Add", ()),
        ("down.bias", np.inf, "Add", ("has infinities",)),
    ],
)
def test_first_bad_tensor_is_the_one_that_was_spoilt(
    models: dict[str, ir.Model], tmp_path: Path, poison: str, value: float, operation: str, problem: tuple[str, ...]
) -> None:
    found = searched(models, tmp_path, 5e-3, poison, value)
    assert found.bad is not None
    assert found.bad.operation == operation
    assert set(problem) <= set(found.bad.problems)
    before = [place for place in found.looked_at if place.number < found.bad.number]
    assert all(place.agrees for place in before)
    assert found.bad.number - 1 in {place.number for place in before}
    json.dumps(found.to_json(), allow_nan=False)


def test_graphs_without_a_common_tensor(models: dict[str, ir.Model], tmp_path: Path) -> None:
    other = onnx_from_program(program_from_graph(toys.encoder()))
    paths = written(models["fp16"], tmp_path / "engine"), written(other, tmp_path / "other")
    with pytest.raises(UsageError, match="no tensor in common"):
        bisect("step", *paths, {}, 1e-3)


def test_report_of_a_set() -> None:
    report = measure(SHIPPED / "tiny", ["update", "first_conditions"], False, Silent())
    assert [row.graph for row in report.rows] == ["update", "first_conditions"]
    assert all(row.passed for row in report.rows)
    assert search(report, (), None, Silent()).searches == ()  # none has failed
    with pytest.raises(UsageError, match="graph 'stairs' is not in the engine set; it has image_encoder"):
        measure(SHIPPED / "tiny", ["stairs"], False, Silent())


def test_engine_whose_inside_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stt2v.bench.parity import ParityReport

    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    declared = json.loads((SHIPPED / "tiny/manifest.json").read_text())["model"]
    build_engine_set(declared, {"update": toys.update}, "tensorrt-rtx", "fp16", "sm_89", tmp_path / "set")
    with pytest.raises(
        UsageError, match="'update' is of tensorrt-rtx, whose inner tensors cannot be seen; bisect a set"
    ):
        search(ParityReport(tmp_path / "set", ()), ["update"], None, Silent())


def test_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "parity",
        "--model",
        "tiny",
        "--graph",
        "update",
        "--bisect",
        "--json",
        str(tmp_path / "out.json"),
    ]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert "update" in table[2]
    assert "tensors in common" in table[3]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"][0]["graph"] == "update"
    assert written["searches"][0]["bad"] is None
