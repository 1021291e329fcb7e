"""`bench step` and `bench kernels`: what a report says, and that every variant runs."""

import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from stt2v.bench.step import Row, StepReport, _row, measure_step
from stt2v.bench.timing import Ceilings, Timing
from stt2v.bench.worker import READY, Result, serve
from stt2v.cli import main
from stt2v.engine.errors import UsageError
from stt2v.engine.progress import Silent


def row(variant: str, milliseconds: float) -> Row:
    time = Timing(milliseconds, milliseconds - 1, milliseconds + 1, 10)
    return Row("step", variant, Result((np.ones(2),), time, 60.0, 3 << 30, 1 << 30, {}), rel=1e-3)


REPORT = StepReport(
    "tiny",
    "a machine",
    "2.13.0",
    Ceilings(700.0, 3000.0),
    (row("eager", 900.0), row("fp16", 300.0), Row("step", "fp8", problem="Traceback\nOutOfMemoryError: too large")),
)


def test_report_is_in_ratios_of_the_baseline() -> None:
    head, eager, fp16, fp8 = REPORT.lines()
    assert "700 TFLOP/s, 3000 GB/s" in head
    assert "1.00x of eager" in eager
    assert "300.0 ms (299.0 to 301.0 of 10), 3.00x of eager, rel 1.0e-03, 2.0 GiB" in fp16
    assert fp8.endswith("OutOfMemoryError: too large")
    assert [row["ratio"] for row in json.loads(json.dumps(REPORT.to_json()))["rows"]] == [1.0, 3.0, None]


def test_an_output_that_is_nan_shows_whichever_it_is() -> None:
    good, bad = np.ones(2, np.float32), np.full(2, np.nan, np.float32)
    result = Result((good, bad), Timing(1.0, 1.0, 1.0, 10), 0.0, 0, 0, {})
    row = _row("step", "fp16", result, (good, good))
    assert "rel nan" in StepReport("tiny", "a machine", "2.13.0", Ceilings(1.0, 1.0), (row,)).lines()[1]


def test_a_reference_that_failed_says_why() -> None:
    result = Result((np.ones(2, np.float32),), Timing(1.0, 1.0, 1.0, 10), 0.0, 0, 0, {})
    failed = _row("step", "fp16", result, "Traceback\nOutOfMemoryError: too large")
    *_, line = StepReport("tiny", "a machine", "2.13.0", Ceilings(1.0, 1.0), (failed,)).lines()
    assert "rel not known (OutOfMemoryError: too large)" in line


def test_variant_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="choose one of eager"):
        measure_step("tiny", ["step"], ["quick"], "cpu", Silent())


def test_graph_that_is_not_known() -> None:
    with pytest.raises(UsageError, match=r"graph 'stop' is not known; choose of image_encoder, .*step"):
        measure_step("tiny", ["stop"], ["eager"], "cpu", Silent())


@pytest.mark.parametrize("flag", ["--json", "--chart"])
def test_where_nothing_can_be_written_is_told_before_it_is_measured(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "step", flag, str(tmp_path / "missing" / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--device", "cuda"]) == 2
    assert "PyTorch finds no GPU here" in capsys.readouterr().err


def test_worker_says_when_it_is_ready_and_measures_when_told() -> None:
    ours, theirs = multiprocessing.Pipe()
    worker = threading.Thread(target=serve, args=(theirs, "tiny", "update", "eager", "cpu"))
    worker.start()
    assert ours.recv() == READY
    ours.send("go")
    result = ours.recv()
    worker.join()
    assert result.timing.median > 0
    assert [output.shape for output in result.outputs] == [(25, 4, 8, 16)] * 2


def test_worker_sends_what_went_wrong() -> None:
    ours, theirs = multiprocessing.Pipe()
    serve(theirs, "tiny", "no such graph", "eager", "cpu")
    assert "KeyError" in ours.recv()
