"""What a run is said to take, before it begins."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.engine import run_costs
from stt2v.engine.backends.residency import Needs
from stt2v.engine.errors import EngineSetError
from stt2v.engine.figures import Figures
from stt2v.engine.manifest import read_manifest, write_manifest
from stt2v.engine.models import find_model
from stt2v.engine.parity import Parity, write_parity
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.run_costs import HOST_OF_ENGINE, RunCost, run_cost
from stt2v.engine.store import SHIPPED

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """`tiny` with a certificate of round numbers."""
    directory = tmp_path / "tiny"
    shutil.copytree(SHIPPED / "tiny", directory)
    names = [entry.spec.name for entry in read_manifest(directory).engines]
    row = Parity("", 0.0, 0.0, 1e-4, milliseconds=100.0, load_bytes=1 << 20, run_bytes=1 << 28)
    write_parity(directory, [replace(row, graph=name) for name in names])
    return directory


@pytest.fixture
def on_cards(certified: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as if for cards, of which there are three."""
    write_manifest(certified, replace(read_manifest(certified), target="cuda"))
    monkeypatch.setattr("stt2v.engine.parallel.wire.card_count", lambda: 3)
    return certified


def cost(model: str, engines: Path | None = None, gpus: int = 1, **changes: object) -> RunCost:
    declared, request = find_model(model), Request(image=PICTURE, **changes)
    settings = request.resolve(declared)
    return run_cost(declared, settings, plan_run(declared, settings), engines, gpus=gpus)


def test_time_and_memory_come_from_the_certificate(certified: Path) -> None:
    made = cost("tiny", certified, num_frames=64)
    generate, enhance, interpolate = made.stages
    assert (made.measured, made.complete, made.target, made.missing) == (True, True, "cpu", None)
    assert [generate.calls, enhance.calls, interpolate.calls] == [22, 114, 31]
    assert made.seconds == pytest.approx(16.7)
    first = 9 * (1 << 20)  # eight engines and the interpolator's
    assert enhance.bytes - generate.bytes == 6 * (1 << 20)
    assert interpolate.bytes == enhance.bytes == made.host_bytes
    base = generate.bytes - first - (1 << 28)
    assert 40 << 20 < base < 2 << 30  # what this process holds


def test_engines_that_are_not_used_cost_nothing(certified: Path) -> None:
    without = cost("tiny", certified, num_frames=64, enhancer="none")
    assert [stage.stage for stage in without.stages] == ["generate", "interpolate"]
    assert without.disk_bytes < cost("tiny", certified, num_frames=64).disk_bytes


def test_several_cards_share_what_is_independent(on_cards: Path) -> None:
    one, two, three = (cost("tiny", on_cards, gpus, num_frames=64) for gpus in (1, 2, 3))
    assert two.seconds < one.seconds
    generate, enhance, interpolate = two.stages
    # 8 steps by two halves at once and an update; in each chunk groups of 8, 8, 8 and 1 frames; 6 engines before
    assert generate.seconds == pytest.approx(0.1 * (8 * 2 + 2 * (2 + 1) + 6), rel=1e-3)
    assert interpolate.seconds == pytest.approx(0.1 * 16, rel=2e-3)
    assert three.stages[0].seconds == pytest.approx(0.1 * (8 * 2 + 2 * (1 + 1) + 6), rel=1e-3)
    assert three.stages[1].seconds < enhance.seconds
    assert [stage.others for stage in one.stages] == [0, 0, 0]
    assert 0 < generate.others < generate.bytes
    assert one.host_bytes < two.host_bytes < three.host_bytes
    assert "by 2 cards" in two.summary
    assert "of each other card" in two.lines()[1]


@pytest.mark.parametrize(("gpus", "engines"), [(1, 15), (2, 16 + 7), (3, 16 + 2 * 7)])
def test_engines_on_cards_take_memory_of_the_host_too(
    gpus: int, engines: int, on_cards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first process those that are called, in each other one those that it shares."""
    without = cost("tiny", on_cards, gpus, num_frames=64)
    names = [entry.spec.name for entry in read_manifest(on_cards).engines]
    monkeypatch.setattr(run_costs, "engine_needs", lambda *_: dict.fromkeys(names, Needs({}, 0)))
    made = cost("tiny", on_cards, gpus, num_frames=64)
    assert made.host_bytes - without.host_bytes == engines * HOST_OF_ENGINE


def test_processes_on_one_processor_gain_no_time_and_take_memory_each(certified: Path) -> None:
    one, two = (cost("tiny", certified, gpus, num_frames=64) for gpus in (1, 2))
    assert two.seconds - one.seconds == pytest.approx(0.1 * (3 - 1) * 8)  # halves and update in place of fused steps
    assert two.host_bytes == max(stage.bytes for stage in two.stages) + max(stage.others for stage in two.stages)


def test_ways_between_cards_take_time() -> None:
    engine = Figures(1000.0, moved=8_100_000_000)
    assert [engine.seconds(12, 6, gpus) for gpus in (1, 2, 4, 8)] == [12.0, 2 * (3 + 3), 2 * (2 + 4), 2 * (1 + 5)]
    assert Figures(1000.0, batch=4).seconds(10, 10, gpus=2) == 2.0


@pytest.mark.parametrize(
    ("gpus", "said"),
    [(("0",), "expected at least 1"), (("4",), "PyTorch sees 3"), (("2", "--vram", "24GiB"), "--vram is of one card")],
)
def test_a_number_of_cards_that_cannot_be(
    gpus: tuple[str, ...], said: str, on_cards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--model", "tiny", "--image", str(PICTURE), "--engines", str(on_cards), "--gpus", *gpus]
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_published_model_by_the_table() -> None:
    made = cost("streaming-svd")
    text = "\n".join(made.lines())
    assert (made.measured, made.complete) == (False, False)
    assert "`stt2v build-engines --model streaming-svd`: about 27.1 GiB of disk in fp32, time not known" in text
    assert "enhance: 373 calls of engines, at least 3 min 30 s, memory of the card 32.7 GiB" in text
    assert "(by a table, not measured here)" in text
    assert made.stages[0].seconds == pytest.approx(25 * 0.451 + 150 * 1.058 + 18 * 0.29)


def test_table_is_not_stretched_to_other_models_and_sizes() -> None:
    declared = find_model("streaming-t2v")
    settings = Request(prompt="a cat").resolve(declared)
    made = run_cost(declared, settings, plan_run(declared, settings))
    assert made.seconds == 0
    assert not made.complete


def test_set_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(EngineSetError, match="expected an engine set"):
        cost("tiny", tmp_path)


def test_command(certified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", "tiny", "--image", str(PICTURE), "--engines", str(certified)]
    assert cli.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["num_frames"] == 64
    assert data["cost"]["seconds"] == pytest.approx(16.7)
    assert data["cost"]["engines"] == str(certified)
    assert cli.main(words) == 0
    assert "in all about 17 s (measured with these engines), host memory" in capsys.readouterr().out


def test_generate_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-frames", "1", "--no-enhance", "--steps", "1", "-o", str(tmp_path / "out.mp4")]
    assert cli.main(["generate", "--model", "tiny", "--image", str(PICTURE), *words]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plan: ")]
    assert "host memory" in line
    assert "free" in line


def test_memory_is_what_a_run_uses(tmp_path: Path) -> None:
    """To 10 %, each in a process of its own, by the certificate that is shipped."""
    words = ["--image", str(PICTURE)]
    planned = json.loads(in_process(["plan", *words, "--json"])[0])
    *_, used = in_process(["generate", *words, "--output", str(tmp_path / "out.mp4")])
    assert planned["cost"]["measured"]
    assert planned["cost"]["host_bytes"] == pytest.approx(1024 * int(used), rel=0.1)


def in_process(words: list[str]) -> list[str]:
    """What a command prints, and after it the most memory in KiB that its process held."""
    code = (
        "import re, sys; from pathlib import Path; from stt2v import cli; code = cli.main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
