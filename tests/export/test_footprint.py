"""What engines should take of a card, and what a set for a small one leaves out or is refused for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import toys

from stt2v import cli
from stt2v.engine.backends.inductor_card import OUTSIDE
from stt2v.engine.errors import UsageError
from stt2v.engine.manifest import EngineEntry
from stt2v.engine.models import find_model
from stt2v.engine.progress import Silent
from stt2v.engine.size import in_words
from stt2v.export import footprint
from stt2v.export.capture import program_from_graph
from stt2v.export.flat_maps import flat_maps
from stt2v.export.flat_program import flatten
from stt2v.export.footprint import Within, exceeding
from stt2v.export.graph import Graph
from stt2v.export.precision import in_precision
from stt2v.export.recipes import recipe_for
from stt2v.export.to_inductor import activation_bytes

TINY, SVD = find_model("tiny"), find_model("streaming-svd")
KIB = 1 << 10
SIZES = {
    "step": 90,
    "half": 50,
    "update": 1,
    "vae_decode_8": 60,
    "enhance_38_step": 120,
    "enhance_38_half": 70,
    "enhance_16_step": 60,
    "enhance_16_half": 30,
    "interpolate_1024x576": 20,
    "interpolate_1280x720": 40,
}


@pytest.mark.parametrize(("name", "precision"), [("half", "fp16"), ("vae_decode_8", "fp32")])
def test_it_is_that_of_the_captured_graph(name: str, precision: str) -> None:
    make = recipe_for(TINY, None).graphs[name]
    program = program_from_graph(in_precision(make(), precision))
    flat = flat_maps(flatten(program.exported))
    weights = sum(weight.nbytes for weight in flat.weights.values())
    inputs = sum(tensor.nbytes for tensor in program.spec.inputs)
    assert footprint.footprint(make(), precision) == weights + inputs + activation_bytes(flat)


def test_the_graph_keeps_its_weights() -> None:
    graph = toys.half()
    footprint.footprint(graph, "fp16")
    assert {tensor.device.type for tensor in graph.module.parameters()} == {"cpu"}


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is left of the graphs of StreamingSVD, of made-up sizes in KiB, within so many KiB."""
    monkeypatch.setattr(footprint, "footprint", lambda graph, precision: SIZES[graph] * KIB)

    def chosen(kib: int, precision: str = "fp16") -> list[str]:
        graphs = {name: lambda name=name: name for name in SIZES}
        return [*Within(OUTSIDE + kib * KIB, SVD, precision).chosen(graphs, Silent())]

    return chosen


def test_fused_steps_that_do_not_fit_are_left_to_their_halves(chosen: Callable[..., list[str]]) -> None:
    assert chosen(120) == [*SIZES]
    assert {*SIZES} - {*chosen(119)} == {"enhance_38_step"}
    assert {*SIZES} - {*chosen(70)} == {"enhance_38_step", "step"}


@pytest.mark.parametrize(
    ("kib", "precision", "said"),
    [
        (69, "fp16", "'enhance_38_half'.*what fits: --window 16 or --enhancer none .* or more memory"),
        (69, "fp32", "what fits: --precision fp16 or --window 16 or"),
        (39, "fp16", "'enhance_38_half'.*what fits: more memory"),  # the VAE, too
    ],
)
def test_another_that_does_not_fit_is_refused_with_what_would(
    kib: int, precision: str, said: str, chosen: Callable[..., list[str]]
) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(kib, precision)


def test_what_is_measured_to_take_more_is_said() -> None:
    spec = program_from_graph(toys.half()).spec
    entry = EngineEntry(spec, "half", "inductor", "cuda", "fp16", "", "", 5 << 30, 1 << 30, 0.0)
    assert not [*exceeding([entry], 8 << 30)]
    (line,) = exceeding([entry], 6 << 30)
    assert line.startswith(f"engine {spec.name!r} takes {in_words((6 << 30) + OUTSIDE)}")


def build(*words: str) -> int:
    return cli.main(["build-engines", "--model", "tiny", "--dry-run", *words])


CARD = ("--backend", "inductor", "--target", "cuda", "--precision", "fp16")


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def sized(graph: Graph, precision: str) -> int:
        return 2 << 30 if graph.name.endswith("step") else 0

    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    monkeypatch.setattr(footprint, "footprint", sized)
    assert build(*CARD, "--vram", "3GiB", "--json") == 0
    said = capsys.readouterr()
    graphs = {part["graph"] for part in json.loads(said.out)["parts"]}
    assert "half" in graphs
    assert not [name for name in graphs if name.endswith("step")]
    assert "leaves out first_step (about 2 GiB), step (about 2 GiB), enhance_8_step" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--vram", "24GiB"), "engines of onnxruntime for cpu cannot keep to it"),
        ((*CARD, "--vram", "1GiB"), "expected more than the 1.25 GiB of CUDA itself"),
        (("--window", "9"), "--window is 9, expected 2 to 8 frames"),
        (("--window", "4", "--enhancer", "none"), "no enhancer that has windows"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(*words) == 2
    assert said in capsys.readouterr().err


def test_shorter_windows_make_a_set_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    assert build("--window", "4", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["directory"].endswith("-fp32-i2vgen-xl-window4")
    assert "enhance_4_step" in {part["graph"] for part in plan["parts"]}
    assert "enhance_8_step" not in {part["graph"] for part in plan["parts"]}
