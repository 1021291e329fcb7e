"""What a build is said to come to, that it is refused when it does not fit, and how the command line shows it."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import toys

from stt2v import cli
from stt2v.engine.build_costs import costs
from stt2v.engine.errors import ExportError
from stt2v.engine.models import find_model
from stt2v.engine.models.model import Model
from stt2v.engine.models.streaming_svd import STREAMING_SVD
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.export import build_model, build_plan
from stt2v.export.build_model import model_build
from stt2v.export.build_plan import BuildPlan, plan_build
from stt2v.export.expected import ExpectedProgress
from stt2v.export.recipes import Recipe, recipe_for

GRAPHS = {"half": toys.half, "update": toys.update}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `build-engines` of a model that consists of two toys."""
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(build_model, "recipe_for", lambda model, weights: Recipe(GRAPHS, {}))

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["build-engines", "--model", "tiny", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def planned(**changes: object) -> BuildPlan:
    """Of the whole of StreamingSVD for a card."""
    build = model_build("streaming-svd", "tensorrt-rtx", target="sm_89", random_weights=True)
    return replace(plan_build(build, build.survey(), 2, ()), **changes)


def test_from_plan_to_engines_and_back_again(run: Run) -> None:
    code, out, err = run("--dry-run")
    assert code == 0
    assert "2 engines to build, 0 to take over" in out
    assert re.search(r"half: about \d+ s by the last build", out)
    code, out, err = run("--only", "update")
    assert (code, out) == (3, "")
    assert "1 of 2 engines are finished; the same command goes on from there" in err
    data = json.loads(run("--dry-run", "--json")[1])
    assert (data["reused"], [part["graph"] for part in data["parts"]]) == (["update"], ["half"])
    code, out, err = run("--json", "--jobs", 2)
    assert code == 0
    assert "update: was finished by a build that was stopped" in out
    assert [(row["graph"], row["action"]) for row in json.loads(out)["engines"]] == [
        ("half", "built"),
        ("update", "reused"),
    ]
    assert [row["graph"] for row in json.loads(out)["parity"]] == ["half", "update"]
    assert re.search(r"in all about \d+ s, disk [0-9.]+ MiB of", err)
    code, out, err = run()
    assert "is current, nothing to do\n  reused: graph half: is current, rel " in out


def test_unknown_graph(run: Run) -> None:
    for words in ((), ("--dry-run",)):
        code, _, err = run("--only", "whole", *words)
        assert (code, err.splitlines()[-1]) == (2, "stt2v: error: graph 'whole' is not known; choose of half, update")


def test_weights_that_are_none(run: Run, tmp_path: Path) -> None:
    for words, said in (((), "are no folder"), (("--random-weights",), "leave one of them out")):
        code, _, err = run("--dry-run", "--weights", tmp_path / "nowhere", *words)
        assert code == 2
        assert said in err


def test_plan_of_a_published_model() -> None:
    plan = planned()
    text = "\n".join(plan.lines())
    assert "step: about 5 min 15 s by a table, weights 4.22 GiB; graph step: new" in text
    assert "half: time not known, weights 4.22 GiB" in text
    assert "in all about" in text
    assert f"and {plan.unknown} engines of unknown time" in text


def test_disk_that_is_too_small() -> None:
    with pytest.raises(ExportError, match=r"needs .* disk .* 1 KiB are free; `stt2v engines prune` would free 2 MiB"):
        planned(disk_free=1024, prunable=2 << 20).check()


@pytest.mark.parametrize(("jobs", "words"), [(2, "--jobs 1, --precision fp16"), (1, "less: --precision fp16")])
def test_memory_that_is_too_small(jobs: int, words: str) -> None:
    with pytest.raises(ExportError, match=rf"host memory, this machine has 8 GiB; .*{words}.* --target"):
        planned(jobs=jobs, host_there=8 << 30, disk_free=1 << 50).check()


def test_build_that_does_not_fit_is_not_begun(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build_plan, "free_disk", lambda path: 7)
    code, _, err = run()
    assert code == 1
    assert err.endswith("7 B are free; free some or choose another disk with --out\n")
    assert list((tmp_path / "home").glob("engines/*")) == []


class Listener:
    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []

    def stage(self, name: str, total: int) -> None: ...

    def note(self, line: str) -> None: ...

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        self.told.append({"steps": steps, **info})


def test_progress_says_what_is_left_and_that_it_lives() -> None:
    listener = Listener()
    with ExpectedProgress(listener, {"step": 30.0, "half": 20.0, "update": None}, beat=0.01) as progress:
        progress.advance("build", 0, graph="step", phase="compile")
        while len(listener.told) < 3:
            time.sleep(0.001)
        progress.advance("build", graph="step", phase="built", seconds=31.0)
    first, beat, last = listener.told[0], listener.told[1], listener.told[-1]
    assert (first["of"], first["left"]) == ("30 s", "50 s")
    assert (beat["steps"], beat["graph"], beat["phase"], beat["of"]) == (0, "step", "compile", "30 s")
    assert 0 < beat["seconds"] < 30
    assert (last["steps"], last["left"]) == (1, "20 s")


@pytest.mark.slow
@pytest.mark.parametrize("model", [STREAMING_SVD, STREAMING_T2V], ids=lambda model: model.name)
def test_table_of_weights(model: Model) -> None:
    """Counted in the modules themselves."""
    recipe = recipe_for(find_model(model.name), None)
    for cost in costs(model, "onnxruntime", "fp32", recipe.graphs):
        module = recipe.graphs[cost.graph]().module
        count = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
        assert cost.weight_bytes == 4_000_000 * round(count / 1e6), cost.graph
