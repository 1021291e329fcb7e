"""What `stt2v engines` says of the sets that are here, and what it removes."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.inventory import USED, find_stored, inventory
from stt2v.engine.lock import build_lock
from stt2v.engine.manifest import MANIFEST, PARITY, EngineEntry, Manifest, file_entries, write_manifest
from stt2v.engine.models import find_model
from stt2v.engine.parity import Parity, write_parity
from stt2v.engine.seal import seal
from stt2v.engine.spec import EngineSpec
from stt2v.engine.store import find_set, store

NAME = "tiny-128x64-onnxruntime-cpu-fp32"
ENTRY = EngineEntry(EngineSpec("step", (), ()), "step.onnx", "onnxruntime", "cpu", "fp32", "a", "b", 24, 8, 1.5)

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["engines", *words])
        return code, capsys.readouterr().out

    return run


def make(name: str = NAME, **changes: object) -> Path:
    """A set in the store, with one engine."""
    directory = store() / name
    directory.mkdir(parents=True)
    (directory / "step.onnx").write_bytes(b"graph" * 100)
    (directory / "weights.bin").write_bytes(b"numbers" * 1000)
    tools, model = {"onnxruntime": version("onnxruntime")}, json.loads(json.dumps(find_model("tiny").to_json()))
    files = file_entries(directory, ["step.onnx", "weights.bin"])
    made = Manifest("0.1", model, "onnxruntime", "cpu", "fp32", tools, (ENTRY,), files)
    write_manifest(directory, replace(made, **changes))
    seal(directory, MANIFEST)
    write_parity(directory, [Parity("step", 1e-6, 1e-6, 1e-4)])
    seal(directory, PARITY)
    return directory


def test_current_set_is_listed_with_size_and_last_use(run: Run) -> None:
    directory = make()
    code, out = run("list")
    assert code == 0
    assert "(shipped)" in out
    assert "(not used yet)" in out
    with EngineSet.open(directory):
        pass
    assert "last used 20" in run("list")[1]
    data = {found["name"]: found for found in json.loads(run("list", "--json")[1])["sets"]}
    assert (data[NAME]["state"], data[NAME]["reasons"], data[NAME]["runs_here"]) == ("current", [], True)
    assert data[NAME]["bytes"] > 7500


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tools": {"onnxruntime": "0.1"}}, f"tool onnxruntime: was 0.1, now {version('onnxruntime')}"),
        ({"model": find_model("tiny").to_json() | {"fps": 99.0}}, "model fps: was 99.0, now 12.0"),
        ({"model": {"name": "older"}}, "model older: is not known to this stt2v"),
    ],
)
def test_stale_set_says_why(run: Run, changes: dict[str, object], reason: str) -> None:
    make(**changes)
    assert find_stored(NAME).state == "stale"
    assert reason in run("list")[1]


def test_what_one_may_choose_makes_nothing_stale() -> None:
    chosen = replace(find_model("tiny"), width=256, height=128, enhancing=None, warning="random weights")
    make(model=json.loads(json.dumps(chosen.to_json())))
    assert find_stored(NAME).state == "current"


def test_tool_that_is_not_here_makes_nothing_stale() -> None:
    make(tools={"torch-of-another-machine": "2.13"})
    assert find_stored(NAME).state == "current"


def test_show(run: Run) -> None:
    directory = make()
    out = run("show", NAME)[1]
    assert "6.84 KiB in weights.bin, each tensor once" in out
    assert "step: 500 B, weights 24 B, activations 8 B, built in 2 s, rel 1.0e-06 of 0.0001" in out
    (row,) = json.loads(run("show", str(directory), "--json")[1])["engines"]
    assert (row["graph"], row["backend"], row["bytes"], row["limit"]) == ("step", "onnxruntime", 500, 1e-4)
    with pytest.raises(UsageError, match=rf"'other' is not known; .*tiny, {NAME}"):
        find_stored("other")


def test_show_an_engine_that_does_not_run(run: Run) -> None:
    directory = make()
    write_parity(directory, [Parity("step", math.inf, math.inf, 1e-4, ("does not run: no memory",))])
    seal(directory, PARITY)
    assert "built in 2 s, rel inf of 0.0001" in run("show", NAME)[1]
    out = run("show", NAME, "--json")[1]
    assert "Infinity" not in out
    assert json.loads(out)["engines"][0]["rel"] is None


def test_times_are_those_of_the_user(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (make() / USED).touch()
    os.utime(store() / NAME / USED, (1_700_000_000, 1_700_000_000))  # 22:13 UTC
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC-5:30")
        time.tzset()
        assert "last used 2023-11-15 03:43" in run("list")[1]
    time.tzset()


def test_show_says_that_engines_hold_their_weights(run: Run) -> None:
    directory = make()
    (directory / "weights.bin").unlink()
    write_manifest(directory, replace(find_stored(NAME).manifest, files=file_entries(directory, ["step.onnx"])))
    seal(directory, MANIFEST)
    seal(directory, PARITY)
    assert "inside each engine" in run("show", NAME)[1]


def test_verify_names_the_file(run: Run) -> None:
    directory = make()
    shipped = [find_stored(name).directory for name in ("mini", "tiny")]
    assert run("verify") == (0, "".join(f"ok  {found}\n" for found in (*shipped, directory)))
    (directory / "step.onnx").write_bytes(b"grape" * 100)
    code, out = run("verify", NAME)
    assert (code, out.startswith(f"BAD {directory / 'step.onnx'}: is not the file")) == (1, True)
    assert json.loads(run("verify", "--json")[1])["sets"][str(directory)].startswith(str(directory / "step.onnx"))


def test_engine_that_computes_wrongly_makes_its_set_stale(run: Run) -> None:
    directory = make()
    write_parity(directory, [Parity("step", 0.05, 0.05, 1e-4, ("y has NaN",))])
    seal(directory, PARITY)
    assert "engine step: computes wrongly, rel 0.05, y has NaN, limit 0.0001" in run("list")[1]
    code, out = run("verify", NAME)
    assert (code, "computes wrongly on this machine: step" in out) == (1, True)


def test_damaged_certificate_is_a_reason(run: Run) -> None:
    (make() / PARITY).write_text("[3]")
    assert "parity.json: is no certificate" in run("list")[1]
    assert run("verify", NAME)[0] == 1


def test_set_in_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    elsewhere = make().rename(tmp_path / "elsewhere")
    assert run("verify", str(elsewhere)) == (0, f"ok  {elsewhere}\n")


def test_prune_removes_what_is_stale_or_left(run: Run) -> None:
    current = make()
    stale = make("tiny-128x64-onnxruntime-cuda-fp32", tools={"onnxruntime": "0.1"})
    left = store() / f".{NAME}-abcd_123"
    left.mkdir()
    (left / "step.onnx").write_bytes(b"half")
    assert "would free" in run("prune", "--dry-run")[1]
    assert left.exists()
    with build_lock(current, pytest.fail):
        assert run("prune")[1].count("stopped") == 0  # the build that makes it is at work
    assert left.exists()
    assert not stale.exists()
    assert f"left by a build of {NAME} that was stopped" in run("prune")[1]
    assert [path.name for path in store().iterdir()] == [NAME]


def test_link_out_of_the_store(run: Run, tmp_path: Path) -> None:
    directory = make()
    elsewhere = directory.rename(tmp_path / NAME)
    directory.symlink_to(elsewhere)
    with pytest.raises(EngineSetError, match=f"{NAME} is a link out of the store"):
        find_set("tiny")
    assert find_stored(NAME).state == "refused"
    run("prune")
    assert (directory.is_symlink(), (elsewhere / MANIFEST).is_file()) == (False, True)


def test_damaged_manifest_is_listed_as_refused(run: Run) -> None:
    (make() / MANIFEST).write_text("{}")
    assert {found.name: found.state for found in inventory()} == {"mini": "current", "tiny": "current", NAME: "refused"}
    assert run("verify")[0] == 1
