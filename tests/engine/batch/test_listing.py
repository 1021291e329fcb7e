"""Lists of jobs: what their lines spell, what they are called, and which are refused without the others."""

import json
from pathlib import Path

import pytest
from PIL import Image

from stt2v.engine.batch.listing import listed_jobs
from stt2v.engine.errors import InputError, UsageError
from stt2v.engine.flags import RequestFlags
from stt2v.engine.job import Job
from stt2v.engine.request import Request

COMMON = RequestFlags(seed=7, num_frames=16)


def jobs_of(text: str, tmp_path: Path, name: str = "jobs.jsonl") -> list[Job]:
    (tmp_path / name).write_text(text)
    listed = listed_jobs(tmp_path / name, COMMON, Path("out"))
    assert not listed.refused
    return list(listed.jobs)


def test_a_line_spells_the_flags_of_a_request(tmp_path: Path) -> None:
    line = {"prompt": "a --cat", "seed": 0, "guidance": "1:2", "no_enhance": True, "no-interpolate": False, "fps": 8}
    (job,) = jobs_of(json.dumps({**line, "model": "streaming-t2v", "output": "cat"}) + "\n\n", tmp_path)
    request = Request(prompt="a --cat", seed=0, guidance=(1, 2), enhancer="none", fps=8.0, num_frames=16)
    assert job == Job("streaming-t2v", request, Path("out/cat.mp4"))


def test_a_table_has_the_same_fields(tmp_path: Path) -> None:
    text = 'prompt,seed,no_interpolate\n"a cat,\njumping",3,true\na dog,,\n'
    first, second = jobs_of(text, tmp_path, "prompts.csv")
    assert first.request == Request(prompt="a cat,\njumping", seed=3, interpolate=False, num_frames=16)
    assert second.request == Request(prompt="a dog", seed=7, num_frames=16)
    assert [job.output.name for job in (first, second)] == ["0001-a-cat-jumping.mp4", "0002-a-dog.mp4"]


def test_pictures_lie_beside_the_list(tmp_path: Path) -> None:
    (job,) = jobs_of('{"image": "a.png"}', tmp_path)
    assert job.request.image == tmp_path / "a.png"
    (tmp_path / "pictures").mkdir()
    for name in ("b.png", "a.png", "a.jpg", "a.jpg.webp", "notes.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / name, "PNG")
    listed = listed_jobs(tmp_path / "pictures", COMMON, Path("out"))
    assert [job.output.name for job in listed.jobs] == ["a.jpg.mp4", "a.jpg.webp.mp4", "a.png.mp4", "b.mp4"]
    assert {job.request.seed for job in listed.jobs} == {7}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("no json", "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"promt": "a cat"}', "'promt' is not known"),
        ('{"seed": "x"}', "as an integer, got 'x'"),
        ('{"prompt": ["a", "b"]}', """field 'prompt' is ["a", "b"], expected text"""),
        ('{"seed": true}', "seed"),
        ('{"prompt": "a", "output": "../a.mp4"}', "without a folder"),
        ('{"prompt": "a", "output": "same.mp4"}', "name it otherwise"),
        ('{"from": "missing.mp4"}', "missing.mp4"),
    ],
)
def test_a_line_that_is_wrong_is_refused_alone(line: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text(f'{{"prompt": "a", "output": "same.mp4"}}\n{line}\n{{"prompt": "b"}}')
    listed = listed_jobs(tmp_path / "jobs.jsonl", COMMON, Path("out"))
    assert [job.output.name for job in listed.jobs] == ["same.mp4", "0003-b.mp4"]
    (refused,) = listed.refused
    assert refused.job == f"{tmp_path}/jobs.jsonl line 2"
    assert word in (refused.problem or "")


def test_what_is_no_list_is_refused_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "quote.csv").write_text('prompt,seed\n"a cat,1\na dog,2\n')
    (tmp_path / "long.csv").write_text("prompt\n" + "a" * 200_000)
    for name in ("missing.jsonl", "empty.jsonl", "binary.jsonl", "quote.csv is no table after line 1", "long.csv"):
        with pytest.raises(InputError, match=name):
            listed_jobs(tmp_path / name.split()[0], COMMON, Path("out"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        listed_jobs(tmp_path / "pictures", COMMON, Path("out"))
    with pytest.raises(UsageError, match="leave one of them out"):
        listed_jobs(tmp_path / "pictures", RequestFlags(no_enhance=True, enhancer="vid2vid"), Path("out"))
