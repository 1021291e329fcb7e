"""A card that fails so that the process is of no use costs no frame."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from stt2v import cli
from stt2v.engine.backends import cuda
from stt2v.engine.errors import BackendError, DeviceLostError
from stt2v.engine.media.read import read_frames
from stt2v.engine.models.tiny import TINY
from stt2v.engine.request import Request
from stt2v.engine.runs import restart
from stt2v.engine.runs.folder import begin_run
from stt2v.engine.runs.record import new_record

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"
WORDS = ("generate", "--model", "tiny", "--image", str(PICTURE), "--steps", "1", "--num-frames", "60", "--no-enhance")
LOSING = """
import sys
from stt2v import cli
from stt2v.engine.backends.ort import HostEngine
from stt2v.engine.errors import DeviceLostError
calls, run = [], HostEngine.run

def losing(engine, inputs):
    calls.append(engine.spec.name)
    if calls.count(sys.argv[-2]) == int(sys.argv[-1]):
        raise DeviceLostError("CUDA failed (an illegal memory access)")
    return run(engine, inputs)

HostEngine.run = losing
sys.exit(cli.main(sys.argv[1:-2]))
"""


@pytest.mark.parametrize("call", [("first_step", "1"), ("conditions", "2")])  # of the first chunk, and of the third
def test_a_lost_card_costs_no_frame(tmp_path: Path, call: tuple[str, str]) -> None:
    environment = {**os.environ, "STT2V_HOME": str(tmp_path / "home")}
    paths = [tmp_path / name for name in ("lost.mp4", "whole.mp4")]
    for script, path, more in ((LOSING, paths[0], call), (restart.SCRIPT, paths[1], ())):
        words = [*WORDS, "--no-interpolate", "--output", str(path), "--no-metadata", *more]
        done = subprocess.run(
            [sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{path}\n"
        assert ("a new process goes on" in done.stderr) == (script == LOSING)
    lost, whole = (np.stack(list(read_frames(path))) for path in paths)
    assert np.array_equal(lost, whole)


def test_a_card_that_is_lost_again_and_again_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, words, environment: started.append([environment[restart.COUNT]]))
    for done in range(restart.MOST):
        monkeypatch.setenv(restart.COUNT, str(done))
        with restart.restarting(list):
            raise DeviceLostError("gone")
    assert started == [["1"], ["2"], ["3"]]
    monkeypatch.setenv(restart.COUNT, str(restart.MOST))
    with pytest.raises(DeviceLostError), restart.restarting(list):
        raise DeviceLostError("gone")


def test_what_was_said_of_the_run_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def lost(words: Callable[[], Sequence[str]]) -> None:
        said.extend(words())
        raise KeyboardInterrupt

    def begun(output: Path, run_dir: Path | None, context: Any, began: float) -> Sequence[str]:
        return restart.resuming(output, context)

    monkeypatch.setattr("stt2v.engine.commands.generate.restarting", lost)
    monkeypatch.setattr("stt2v.engine.commands.generate.going_on", begun)
    of_the_run = ["--run-dir", "kept", "--discard-run", "--trust", "--preview", "live.mp4", "--json"]
    CliRunner().invoke(cli.app, [*WORDS, "--output", "a.mp4", *of_the_run])
    assert said == ["generate", "--resume", "a.mp4", *of_the_run]


def test_an_older_run_is_not_gone_on_with(tmp_path: Path) -> None:
    record = new_record(tmp_path / "out.mp4", None, {"model": "tiny"} | Request(image=PICTURE).resolve(TINY).to_json())
    begin_run(tmp_path, record, None)
    command = restart.going_on(tmp_path / "out.mp4", tmp_path, _Context(), record.created + 1)
    assert command == sys.argv[1:]
    command = restart.going_on(tmp_path / "out.mp4", tmp_path, _Context(), record.created)
    assert command == ["generate", "--resume", str(tmp_path / "out.mp4")]


class _Context:
    """What typer knows of a command without parameters."""

    class command:
        params = ()


@pytest.mark.parametrize(("status", "lost"), [(700, True), (719, True), (214, True), (1, False), (999, False)])
def test_which_statuses_lose_a_card(status: int, lost: bool) -> None:
    class Api:
        class cudaError_t:
            cudaErrorMemoryAllocation, cudaErrorInsufficientDriver, cudaErrorNoDevice = 2, 35, 100

        cudaGetErrorName = cudaGetErrorString = staticmethod(lambda status: (0, b"words"))

    error = cuda._error(Api, "cudaStreamSynchronize", status)
    assert isinstance(error, BackendError)
    assert isinstance(error, DeviceLostError) == lost
