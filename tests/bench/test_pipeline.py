"""What a whole run is said to take, and what it took."""

import json
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.bench.pipeline import Stopwatch
from stt2v.engine.progress import Silent

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"


def test_a_stage_lasts_until_the_next_begins() -> None:
    times = iter([1.0, 4.0, 10.0])
    watch = Stopwatch(Silent(), lambda: next(times))
    watch.stage("generate", 8)
    watch.advance("generate")
    watch.stage("enhance", 3)
    assert watch.taken() == {"generate": 3.0, "enhance": 6.0}


def test_bench_pipeline_sets_a_run_beside_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, chart = tmp_path / "out.json", tmp_path / "out.png"
    words = ["--image", PICTURE, "--num-frames", 3, "--steps", 1, "--no-enhance"]
    code = cli.main(
        [str(word) for word in ("bench", "pipeline", "--model", "tiny", *words, "--json", file, "--chart", chart)]
    )
    out, data = capsys.readouterr().out, json.loads(file.read_text())
    assert code == 0
    assert "tiny: 3 frames in" in out
    assert [stage["stage"] for stage in data["stages"]] == ["generate", "interpolate"]
    assert all(stage["taken"] > 0 and stage["planned"] > 0 for stage in data["stages"])
    assert data["measured"]
    assert data["used_bytes"] > 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob("*.mp4"))
