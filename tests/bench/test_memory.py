"""A run within limits of memory, each in a process of its own, as a table, as JSON and as a picture."""

import json
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from PIL import Image

from stt2v import cli
from stt2v.bench.memory import measure_memory
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"


def test_bench_memory_tells_a_refusal_beside_the_run_without_a_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, chart = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--image", PICTURE, "--num-frames", 1, "--steps", 1, "--no-enhance", "--no-interpolate"]
    where = ["--limit", "16GiB", "--json", file, "--chart", chart]
    assert cli.main([str(word) for word in ("bench", "memory", "--model", "tiny", *words, *where)]) == 0
    out, data = capsys.readouterr().out, json.loads(file.read_text())
    assert "no limit: " in out
    assert "16 GiB: --vram is given, backend 'onnxruntime' cannot keep to it" in out
    assert [row["vram"] for row in data["rows"]] == [None, 16 << 30]
    assert data["rows"][0]["run"]["used_bytes"] > 0
    assert data["rows"][0]["ratio"] == 1
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors()) > 3


def test_a_run_that_is_ended_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    future = Future[None]()
    future.set_exception(BrokenProcessPool())
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *_, **__: future)
    report = measure_memory("tiny", Request(image=PICTURE), None, [16 << 30], Silent())
    assert [row.vram for row in report.rows] == [None, 16 << 30]
    assert "16 GiB: its process was ended without a word" in report.lines()[2]


def test_a_limit_that_is_no_amount(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "memory", "--model", "tiny", "--limit", "some"]) == 2
    assert "--limit is 'some', expected an amount such as 24GiB" in capsys.readouterr().err
