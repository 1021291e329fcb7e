"""What several GPUs make of the parts of a video: the arithmetic of what was measured, and a measurement."""

import json
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.bench.spread import Part, SpreadReport

WINDOW = Part("enhance_38_step", alone=105.0, computing=100.0, together=56.0, wire=2.0)
STEP = Part("step by halves", alone=200.0, computing=101.0, together=105.0, wire=2.0, halves=True)


def test_a_call_of_many() -> None:
    assert WINDOW.speedup == pytest.approx(105 / 56)
    assert WINDOW.waiting(2) == pytest.approx(1 - 50 / 56)
    assert WINDOW.predicted(1) == 1
    assert WINDOW.predicted(2) == pytest.approx(2 * 105 / (100 + 2 * 5 + 2))
    assert WINDOW.predicted(8) < 8
    assert Part("ideal", 100.0, 100.0, 50.0, 0.0).predicted(8) == 8


def test_halves_are_two_however_many_there_are() -> None:
    assert STEP.predicted(2) == STEP.predicted(8) == pytest.approx(200 / 103)
    assert STEP.waiting(2) == pytest.approx(1 - 101 / 105)


def test_the_report_says_what_was_only_predicted() -> None:
    report = SpreadReport("streaming-svd", "card", 2, 5e9, (STEP, WINDOW))
    assert [*report.lines()][2] == (
        "  enhance_38_step: 105.0 ms by one, 56.0 by 2 (1.88x), 10.7% not computing;"
        " predicted 1.88x for 2, 3.33x for 4, 5.45x for 8"
    )
    assert report.to_json()["parts"][0]["predicted"][8] == STEP.predicted(8)


def test_one_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "gpus", "--model", "tiny", "--gpus", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err
    assert cli.main(["bench", "gpus", "--model", "mini", "--gpus", "2"]) == 1
    assert "has no half, update" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert cli.main(["bench", "gpus", "--model", "tiny", "--gpus", "2", "--json", str(path)]) == 0
    parts = {part["part"]: part for part in json.loads(path.read_text())["parts"]}
    assert {"step by halves", "enhance_8_step", "vae_decode_8", "interpolate_256x128"} < parts.keys()
    assert all(part["together"] > 0 and part["computing"] > 0 for part in parts.values())
