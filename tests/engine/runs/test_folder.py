"""The folder of runs: what is found for a video, what goes first, and what a run can be made of."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.errors import InputError, OutputError, UsageError
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.request import Request
from stt2v.engine.runs.chunks import chunk_unit
from stt2v.engine.runs.folder import KeptRun, all_runs, begin_run, excess, find_run, remove_runs
from stt2v.engine.runs.record import VIDEO, new_record, read_record
from stt2v.engine.runs.resume import resumption
from stt2v.engine.runs.run import LOCK, Run

Begin = Callable[..., KeptRun]
PROMPT = "a cat; 0: it walks; 64: it sleeps"


@pytest.fixture
def begin(tmp_path: Path) -> Begin:
    """Begins a run of so many finished chunks, so many seconds after 1970."""

    def begin(output: str, chunks: int = 0, created: float = 0, **request: object) -> KeptRun:
        asked = Request(**{"prompt": PROMPT, **request})
        made = {"model": STREAMING_T2V.name, **asked.resolve(STREAMING_T2V).to_json()}
        record = replace(new_record(tmp_path / output, None, json.loads(json.dumps(made))), created=created)
        directory = begin_run(tmp_path / "runs", record, None)
        with Run(directory) as run:
            for index in range(chunks):
                with run.writing(chunk_unit(index)) as path:
                    path.write_bytes(bytes(1000))
        return KeptRun(directory, read_record(directory))

    return begin


def test_the_newest_run_of_a_video_is_found(begin: Begin, tmp_path: Path) -> None:
    runs = [begin(name, created=second) for second, name in enumerate(("a.mp4", "b.mp4", "a.mp4"))]
    assert [run.name for run in all_runs(tmp_path / "runs")] == [run.name for run in runs]
    assert find_run(tmp_path / "runs", tmp_path / "a.mp4") == runs[2]
    assert find_run(tmp_path / "runs", tmp_path / "runs" / ".." / "b.mp4") == runs[1]
    with pytest.raises(InputError, match=r"no run of .*c\.mp4"):
        find_run(tmp_path / "runs", tmp_path / "c.mp4")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 9}'])
def test_what_is_no_run_is_left_alone(begin: Begin, tmp_path: Path, text: str) -> None:
    run = begin("a.mp4")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "run.json").write_text(text)
    assert all_runs(tmp_path / "runs") == [run]
    with pytest.raises(InputError):
        read_record(tmp_path / "runs" / "other")


def test_the_oldest_go_until_the_rest_fits(begin: Begin, tmp_path: Path) -> None:
    runs = [begin("a.mp4", chunks=number, created=number) for number in (1, 2, 3)]
    sizes = [run.bytes for run in runs]
    assert excess(runs, sum(sizes)) == []
    assert excess(runs, sum(sizes) - 1) == runs[:1]
    assert excess(runs, sizes[2]) == runs[:2]
    with Run(runs[0].directory):
        assert list(remove_runs(runs[:2])) == runs[1:2]
    assert all_runs(tmp_path / "runs") == [runs[0], runs[2]]


def test_two_processes_that_remove_the_same_runs_do_not_meet(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first is at it, with the lock's file gone already, and again when all is gone."""
    runs, rmtree, others = [begin("a.mp4", chunks=2), begin("b.mp4")], shutil.rmtree, list[list[KeptRun]]()

    def slow(directory: Path) -> None:
        (directory / LOCK).unlink()
        others.append(list(remove_runs(runs[:1])))
        rmtree(directory)

    monkeypatch.setattr(shutil, "rmtree", slow)
    assert list(remove_runs(runs[:1])) == runs[:1]
    assert others == [[]]
    assert list(remove_runs(runs[:1])) == []
    assert runs[0].bytes == 0
    assert all_runs(tmp_path / "runs") == runs[1:]


def test_a_run_that_cannot_begin_leaves_nothing(begin: Begin, tmp_path: Path) -> None:
    record = begin("a.mp4").record
    with pytest.raises(OutputError, match="--run-dir"):
        begin_run(tmp_path / "others", record, tmp_path / "no picture")
    assert not list((tmp_path / "others").iterdir())


def test_a_run_says_how_far_it_is(begin: Begin) -> None:
    run = begin("a.mp4", chunks=2)
    assert (run.chunks, run.frames, run.asked, run.is_whole) == (2, 0, 80, False)
    (run.directory / VIDEO).write_text('{"frames": 24}')
    assert (run.frames, run.is_whole) == (24, False)
    (run.directory / VIDEO).write_text('{"frames": 80}')
    assert run.is_whole


def test_the_same_settings_go_on_and_others_branch(begin: Begin, tmp_path: Path) -> None:
    run, take = begin("a.mp4", chunks=9), tmp_path / "b.mp4"
    assert resumption(run, {}, None, None).shared is None
    assert resumption(run, {"seed": 33}, None, tmp_path / "a.mp4").shared is None
    assert resumption(run, {}, None, take).shared == 9
    assert resumption(run, {"seed": 5}, 4, take).shared == 4
    assert resumption(run, {"num_frames": 160}, None, take).shared == 9
    assert resumption(run, {"num_frames": 80, "enhancer": "none"}, None, take).shared == 9
    assert resumption(run, {"num_frames": 30, "prompt": "a cat"}, 1, take).request.num_frames == 30
    assert [resumption(run, {}, chunk, take).otherwise for chunk in (None, 3)] == [False, True]
    for given, chunk, output in (({"seed": 5}, None, take), ({}, 10, take), ({}, -1, take), ({"fps": 9.0}, None, None)):
        with pytest.raises(UsageError):
            resumption(run, given, chunk, output)
    with pytest.raises(UsageError, match="steps or guidance would change"):
        resumption(run, {"steps": 2}, None, take)


def test_chunks_are_shared_up_to_where_a_prompt_falls_elsewhere(begin: Begin, tmp_path: Path) -> None:
    run = begin("a.mp4", chunks=9, prompt="a cat; 0: it walks; 4s: it sleeps")
    assert resumption(run, {"fps": 12.0}, None, tmp_path / "b.mp4").shared == 3
