"""Runs that are killed, interrupted or broken off, and what they make in the end: the frames of an untouched one."""

import errno
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stt2v import cli
from stt2v.engine.backends.base import Frames, Value, Values
from stt2v.engine.backends.ort import HostEngine
from stt2v.engine.errors import OutOfMemoryError
from stt2v.engine.media.read import read_frames
from stt2v.engine.media.video import VideoWriter
from stt2v.engine.runs import run as runs
from stt2v.engine.runs import states
from stt2v.engine.runs.restart import SCRIPT

PICTURE = Path(__file__).parent / "data" / "landscape.jpg"
WORDS = ("generate", "--model", "tiny", "--image", PICTURE, "--steps", 1)
TRAINED = ("generate", "--model", "mini", "--prompt", "a panda bouncing on grass", "--steps", 4)
LONG = ("--num-frames", 96)

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in an empty folder with an empty store; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))

    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def frames(path: Path) -> Frames:
    return np.stack(list(read_frames(path)))


@pytest.fixture(scope="module", params=[WORDS, pytest.param(TRAINED, marks=pytest.mark.slow)], ids=["tiny", "mini"])
def words(request: pytest.FixtureRequest) -> tuple[object, ...]:
    """96 frames of a model, with all stages."""
    return (*request.param, *LONG)


@pytest.fixture(scope="module")
def whole(words: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video that they make when nothing disturbs it."""
    path = tmp_path_factory.mktemp("whole") / "out.mp4"
    words = (*words, "-o", path, "--discard-run", "--run-dir", path.parent / "runs")
    assert cli.main([str(word) for word in words]) == 0
    assert not list((path.parent / "runs").iterdir())
    return path


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], beginning: str) -> None:
    """Read what `process` says until a line begins so."""
    assert process.stderr is not None
    assert any(line.startswith(beginning) for line in process.stderr)


def test_killed_at_random_moments_it_makes_the_same_video(
    words: tuple[object, ...], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    kills = 25 if "mini" in words else 5
    output, moments = tmp_path / "out.mp4", random.Random(kills)
    words = (*words, "-o", output)
    journals = []
    for _ in range(kills):
        with started(*words) as process:
            if words[1] != "--resume":
                wait_for(process, "generate:")
            time.sleep(moments.uniform(0.8, 2.8))
            process.send_signal(signal.SIGKILL)
        (journal,) = (tmp_path / "home" / "runs").glob("*/journal")
        journals.append(journal.stat().st_size)
        words = ("generate", "--resume", output)
    assert sorted(journals) == journals
    with started(*words) as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    np.testing.assert_array_equal(frames(output), frames(whole))
    assert not list((tmp_path / "home").rglob(".part-*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.mp4"]


KILLED_WHILE_IT_JOINS = f"""
import os, signal
from stt2v.engine.media import join
join._packets = lambda segments, fps: os.kill(os.getpid(), signal.SIGKILL)
{SCRIPT}
"""


def test_killed_while_it_joins_it_leaves_nothing_for_long(command: Command, tmp_path: Path) -> None:
    words = (*WORDS, *FEWER[2:], "--num-frames", 2, "-o", tmp_path / "out.mp4")
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_JOINS, *map(str, words)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".stt2v-*"))
    assert command("generate", "--resume", "out.mp4")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.mp4"]


class Failing:
    """Calls `function`, but raises `error` at the calls whose numbers are given."""

    def __init__(self, function: Callable[..., object], error: Exception, *numbers: int) -> None:
        self.function, self.error, self.numbers, self.calls = function, error, numbers, 0

    def __get__(self, instance: object, owner: object) -> Callable[..., object]:
        return lambda *given, **named: self(instance, *given, **named)

    def __call__(self, *given: object, **named: object) -> object:
        self.calls += 1
        if self.calls in self.numbers:
            raise self.error
        return self.function(*given, **named)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILURES = (
    (runs, "sync", FULL, 3),  # of the second chunk
    (HostEngine, "run", OutOfMemoryError("engine: memory ran out"), 20),
    (states.ArrayFile, "__setitem__", FULL, 20),
    (VideoWriter, "write", FULL, 1),
    (VideoWriter, "write", RuntimeError("the encoder broke"), 2),
)


def test_full_disks_a_failing_encoder_and_no_memory_cost_no_frame(
    command: Command, words: tuple[object, ...], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every failure ends the run, but the memory that is always too little for fused steps where there are others."""
    has_halves, told = "tiny" in words, ""
    if has_halves:
        monkeypatch.setattr(HostEngine, "run", no_memory_for_fused_steps(HostEngine.run))
    for place, name, error, number in FAILURES:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, Failing(getattr(place, name), error, number))
            code, _, said = command(*words)
        full = error is FULL
        assert (code, "the disk that holds" in said, "generate --resume" in said) == (3 if full else 1, full, True)
        assert not Path("out.mp4").exists()
        words, told = ("generate", "--resume", "out.mp4"), told + said
    assert ("the halves of each step one after the other, and goes on from" in told) == has_halves
    assert command(*words)[0] == 0
    np.testing.assert_array_equal(frames(Path("out.mp4")), frames(whole))


def no_memory_for_fused_steps(run: Callable[..., dict[str, Value]]) -> Callable[..., dict[str, Value]]:
    def failing(self: HostEngine, inputs: Values) -> dict[str, Value]:
        if self.spec.name in ("first_step", "step", "enhance_8_step"):
            raise OutOfMemoryError(f"engine {self.spec.name!r}: memory ran out")
        return run(self, inputs)

    return failing


def test_interrupted_once_it_finishes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    with started(*WORDS, *LONG, "-o", tmp_path / "out.mp4") as process:
        wait_for(process, "generate:")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 3, said
    assert "no further chunk is begun" in said
    assert "the video ends after 50 of 96 frames" in said
    assert frames(tmp_path / "out.mp4").shape == (50, 128, 256, 3)


FEWER = ("--num-frames", 44, "--no-enhance", "--no-interpolate")  # three chunks


@pytest.mark.parametrize("length", [FEWER, pytest.param(("--num-frames", 96), marks=pytest.mark.slow)])
def test_a_video_that_ended_early_can_become_whole(
    length: tuple[object, ...], command: Command, tmp_path: Path
) -> None:
    words = (*WORDS, *length)
    with started(*words, "-o", tmp_path / "out.mp4") as process:
        wait_for(process, "generate:")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 3, said
    assert "ended early with " in command("runs", "list")[1]
    assert 0 < len(frames(tmp_path / "out.mp4")) < length[1]
    assert command("generate", "--resume", "out.mp4")[0] == 0
    assert command(*words, "-o", "fresh.mp4")[0] == 0
    np.testing.assert_array_equal(frames(tmp_path / "out.mp4"), frames(tmp_path / "fresh.mp4"))


def test_interrupted_twice_it_stops_at_once_and_can_go_on(command: Command, tmp_path: Path) -> None:
    words = (*WORDS, *FEWER, "-o", tmp_path / "out.mp4")
    with started(*words) as process:
        wait_for(process, "generate:")
        (journal,) = (tmp_path / "home").glob("runs/*/journal")
        while not journal.read_bytes():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 3, said
    assert "--resume" in said
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert command("generate", "--resume", "out.mp4")[0] == 0
    assert len(frames(tmp_path / "out.mp4")) == 44


def test_interrupted_it_may_save_only(tmp_path: Path, command: Command) -> None:
    words = (
        *WORDS,
        "--num-frames",
        60,
        "--no-enhance",
        "--no-interpolate",
        "--on-interrupt",
        "save",
        "-o",
        tmp_path / "out.mp4",
    )
    with started(*words) as process:
        wait_for(process, "generate:")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 3, said
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert command("generate", "--resume", "out.mp4")[0] == 0


def test_takes_share_chunks(command: Command, tmp_path: Path) -> None:
    stages = ("--no-enhance", "--no-interpolate")
    assert command(*WORDS, *stages, "--num-frames", 40)[0] == 0
    assert command("generate", "--resume", "out.mp4", "--from-chunk", 1, "--seed", 7, "-o", "take.mp4")[0] == 0
    assert command("generate", "--resume", "out.mp4", "--num-frames", 50, "-o", "long.mp4")[0] == 0
    one, take, long = (frames(Path(name)) for name in ("out.mp4", "take.mp4", "long.mp4"))
    assert (len(one), len(take), len(long)) == (40, 40, 50)
    assert (take[25:] != one[25:]).any()
    runs = sorted((tmp_path / "home" / "runs").iterdir())
    first, second = ([run / f"chunk-000{index}.safetensors" for run in runs] for index in (0, 1))
    assert first[0].samefile(first[1])
    assert not second[0].samefile(second[1])
    assert first[0].samefile(first[2])
    assert second[0].samefile(second[2])
    assert command("generate", "--resume", "take.mp4")[0] == 0
    np.testing.assert_array_equal(frames(Path("take.mp4")), take)
    code, _, err = command("generate", "--from", "take.mp4", "-o", "again.mp4")
    assert code == 2
    one_command, take_command = re.findall("`stt2v (.*?)`", err)
    for name in ("out.mp4", "take.mp4"):
        Path(name).unlink()
    assert command(*shlex.split(one_command))[0] == 0
    np.testing.assert_array_equal(frames(Path("out.mp4")), one)
    assert command(*shlex.split(take_command))[0] == 0
    np.testing.assert_array_equal(frames(Path("take.mp4")), take)
    assert command(*WORDS, *stages, "--num-frames", 50, "-o", "fresh.mp4")[0] == 0
    np.testing.assert_array_equal(frames(Path("fresh.mp4")), long)


def test_resuming_refuses_what_would_change_the_video(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (*WORDS, *FEWER[2:], "--num-frames", 2)
    assert command(*made)[0] == 0
    for words, said in (
        (["--seed", 5], "name it with --output"),
        (["--seed", 5, "-o", "take.mp4"], "seed would change chunks that are there; give --from-chunk"),
        (["--from-chunk", 2, "-o", "take.mp4"], "--from-chunk is 2, expected 0 to 1"),
        (["--from", "out.mp4"], "leave one of them out"),
        (["--model", "streaming-t2v"], "leave --model out"),
    ):
        code, _, err = command("generate", "--resume", "out.mp4", *words)
        assert (code, said in err) == (2, True), err
    assert "no run of" in command("generate", "--resume", "other.mp4")[2]
    assert "add --resume" in command(*made, "--from-chunk", 1)[2]
    monkeypatch.setattr("stt2v.engine.runs.environment.processors", lambda: 99)
    for words in ((), ("--num-frames", 3, "-o", "long.mp4")):
        code, _, err = command("generate", "--resume", "out.mp4", *words)
        assert code == 2
        assert "environment.threads" in err
        assert "here it is 99" in err
    assert command("generate", "--resume", "out.mp4", "--from-chunk", 1, "-o", "take.mp4")[0] == 0


def test_runs_are_listed_shown_and_pruned(command: Command, tmp_path: Path) -> None:
    assert command("runs", "list")[1].startswith("0 runs")
    for name in ("a.mp4", "b.mp4"):
        assert command(*WORDS, *FEWER[2:], "--num-frames", 2, "-o", name)[0] == 0
    listed = json.loads(command("runs", "list", "--json")[1])
    assert [Path(run["output"]).name for run in listed["runs"]] == ["a.mp4", "b.mp4"]
    assert listed["bytes"] == sum(run["bytes"] for run in listed["runs"]) > 0
    shown = command("runs", "show", "a.mp4")[1]
    assert "whole, 2 frames" in shown
    assert "seed: 33" in shown
    (tmp_path / "home" / "runs" / listed["runs"][1]["name"] / "video.json").unlink()
    assert "unfinished, 1 chunks are there, 2 frames asked for" in command("runs", "list")[1]
    (tmp_path / ".stt2v-12345678.part.mp4").write_bytes(b"left by a process that was killed")
    pruned = command("runs", "prune")[1]
    assert ("a.mp4" in pruned, "b.mp4" in pruned, "1 runs are left" in pruned) == (True, False, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "home"]
    assert command("runs", "show", "a.mp4")[0] == 2
    with runs.Run(tmp_path / "home" / "runs" / listed["runs"][1]["name"]):
        assert "which another process works on\nfreed 0 B; 1 runs are left" in command("runs", "prune", "b.mp4")[1]
    assert "b.mp4" in command("runs", "prune", "./b.mp4")[1]
    assert command("runs", "prune", "--all")[1] == "freed 0 B; 0 runs are left\n"
