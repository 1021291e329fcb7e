"""Every job of a batch ends exactly once: after failures, stops, kills, and changes of the list."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.engine.batch.batch import by_engines, in_turn, run_batch
from stt2v.engine.batch.ledger import LEDGER, FolderLedger
from stt2v.engine.batch.outcome import BatchReport, Outcome, State
from stt2v.engine.errors import DeviceLostError, InputError, StoppedError, UsageError
from stt2v.engine.job import Job
from stt2v.engine.models.mini import MINI
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.runs.restart import SCRIPT
from stt2v.engine.videos import Made


class Workshop:
    """Writes what was asked for; raises what it is told to, once."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.errors: dict[str, BaseException] = {}
        self.early: set[str] = set()

    def make(self, job: Job) -> Made:
        assert job.goes_on
        name = job.output.stem
        if error := self.errors.pop(name, None):
            raise error
        self.made[name] += 1
        job.output.write_text(str(job.request))
        plan = plan_run(MINI, job.request.resolve(MINI))
        return Made(job.output, plan, name in self.early)


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    return [Job("mini", Request(prompt=name), tmp_path / "out" / f"{name}.mp4") for name in "abcd"]


def states(jobs: list[Job], workshop: Workshop) -> list[State]:
    """How each job ends, in the order of the list."""
    ended = {outcome.job: outcome.state for outcome in outcomes(jobs, workshop)}
    return [ended[str(job.output)] for job in jobs]


def outcomes(jobs: list[Job], workshop: Workshop) -> Iterator[Outcome]:
    return run_batch(jobs, FolderLedger(jobs[0].output.parent), partial(in_turn, workshop))


def test_a_bad_job_does_not_stop_the_rest_and_is_tried_again(jobs: list[Job], workshop: Workshop) -> None:
    workshop.errors = {"b": InputError("no picture"), "c": ZeroDivisionError("oops")}
    problems = [outcome.problem for outcome in outcomes(jobs, workshop)]
    assert problems == [None, "no picture", "ZeroDivisionError: oops", None]
    assert states(jobs, workshop) == ["there", "made", "made", "there"]
    assert states(jobs, workshop) == ["there"] * 4
    assert set(workshop.made.values()) == {1}


@pytest.mark.parametrize("error", [StoppedError("full"), DeviceLostError("gone"), KeyboardInterrupt(), SystemExit(143)])
def test_a_stopped_batch_goes_on(jobs: list[Job], workshop: Workshop, error: BaseException) -> None:
    workshop.errors = {"c": error}
    expected = DeviceLostError if isinstance(error, DeviceLostError) else StoppedError
    with pytest.raises(expected):
        states(jobs, workshop)
    assert states(jobs, workshop) == ["there", "there", "made", "made"]
    assert workshop.made == Counter("abcd")


def test_ctrl_c_before_the_first_video_leaves_nothing_to_go_on_with(jobs: list[Job], workshop: Workshop) -> None:
    workshop.errors = {"a": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        states(jobs, workshop)


def test_what_was_changed_is_made_again(jobs: list[Job], workshop: Workshop) -> None:
    states(jobs, workshop)
    jobs[0].output.unlink()
    jobs[1].output.write_text("spoilt")
    jobs[2] = Job("mini", Request(prompt="another"), jobs[2].output)
    assert states(jobs, workshop) == ["made", "made", "made", "there"]


def test_a_video_that_ended_early_is_not_done(jobs: list[Job], workshop: Workshop) -> None:
    workshop.early = {"d"}
    assert states(jobs, workshop) == ["made", "made", "made", "shortened"]
    workshop.early = set()
    assert states(jobs, workshop) == ["there", "there", "there", "made"]


def test_a_torn_line_of_the_ledger_costs_its_job_only(jobs: list[Job], workshop: Workshop) -> None:
    states(jobs, workshop)
    ledger = jobs[0].output.parent / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-5])
    assert states(jobs, workshop) == ["there", "there", "there", "made"]


def test_one_process_works_on_a_folder(jobs: list[Job], workshop: Workshop) -> None:
    running = outcomes(jobs, workshop)
    next(running)
    with pytest.raises(UsageError, match="another process"):
        states(jobs, workshop)
    running.close()


def test_engines_are_loaded_once(tmp_path: Path) -> None:
    jobs = [Job(model, Request(prompt=str(n)), tmp_path / f"{n}.mp4") for n, model in enumerate(("x", "y", "x"))]
    assert [job.request.prompt for job in by_engines(jobs)] == ["0", "2", "1"]


def test_the_report_counts() -> None:
    report = BatchReport([Outcome("a", "made"), Outcome("b", "there"), Outcome("c", "failed", "why")], 5, 2.0)
    assert report.line() == "5 videos: 1 made, 1 made before, 1 failed, 2 left, in 2.0 s"
    assert report.to_json()["left"] == 2


def test_killed_in_a_video_the_same_command_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    lines = [{"prompt": "a cat"}, {"seed": -1, "prompt": "x"}, {"prompt": "a dog", "output": "dog"}]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    common = ("--steps", "1", "--num-frames", "20", "--no-enhance", "--no-interpolate")
    words = ["batch", str(tmp_path / "jobs.jsonl"), "--out", str(tmp_path / "out"), *common]
    command = [sys.executable, "-c", SCRIPT, *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("0001-a-cat.mp4" in line or line.startswith("generate:") for line in process.stderr)
        process.send_signal(signal.SIGKILL)
    code = cli.main([*words, "--json"])
    said = capsys.readouterr()
    assert code == 1
    assert "1 of 3 jobs failed" in said.err
    ended = {Path(job["job"]).name: job["state"] for job in json.loads(said.out)["jobs"]}
    assert ended == {"0001-a-cat.mp4": "made", "0002-x.mp4": "failed", "dog.mp4": "made"}
    assert len(list((tmp_path / "home" / "runs").iterdir())) == 2  # the killed one was taken over
    assert cli.main([*words, "--json"]) == 1
    ended = {Path(job["job"]).name: job["state"] for job in json.loads(capsys.readouterr().out)["jobs"]}
    assert ended == {"0001-a-cat.mp4": "there", "0002-x.mp4": "failed", "dog.mp4": "there"}
