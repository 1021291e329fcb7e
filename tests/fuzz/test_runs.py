"""Damaged runs: they are listed or left out, and gone on with or refused in one line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fuzz.mutation import amounts, damaged, damaged_json, said, search
from stt2v.engine.models import find_model
from stt2v.engine.request import Request
from stt2v.engine.runs.folder import begin_run
from stt2v.engine.runs.record import RECORD, new_record
from stt2v.engine.runs.run import JOURNAL, Run

PICTURE = Path(__file__).parents[1] / "data" / "landscape.jpg"
LINES = (["runs", "list"], ["runs", "show", "out.mp4"], ["generate", "--resume", "out.mp4", "-o", "other.avi"])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of the video `out.mp4` with one finished unit, in a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    made = {"model": "tiny"} | Request(image=PICTURE).resolve(find_model("tiny")).to_json()
    directory = begin_run(tmp_path / "runs", new_record(Path("out.mp4"), None, made), PICTURE)
    with Run(directory) as run, run.writing("chunk-0000.safetensors") as path:
        path.write_bytes(b"frames")
    return directory


def use() -> None:
    """All commands that read a run, up to where work would begin."""
    for line in LINES:
        code, err = said(line)
        assert code in (0, 1, 2)
        assert "--debug" not in err
        assert code == 0 or re.fullmatch(r"stt2v: error: [^\n]+\n", err)


@amounts
def test_damaged_run_records(examples: int, directory: Path) -> None:
    whole = json.loads((directory / RECORD).read_text())

    def check(record: Any) -> None:
        (directory / RECORD).write_text(json.dumps(record))
        use()

    search(examples, check, record=damaged_json(whole))


@amounts
def test_damaged_journals(examples: int, directory: Path) -> None:
    whole = (directory / JOURNAL).read_bytes()

    def check(data: bytes) -> None:
        (directory / JOURNAL).write_bytes(data)
        use()

    search(examples, check, data=damaged(whole))
