"""Command lines of any words: a result, or one line that says why not; never a traceback."""

import functools
import re
from pathlib import Path

import pytest
import typer
from hypothesis import strategies as st
from PIL import Image

from fuzz.mutation import amounts, said, search
from stt2v import cli

APP = typer.main.get_command(cli.app)
numbers = st.one_of(st.integers(-3, 100), st.integers(), st.floats()).map(str)
FILES = ("picture.png", "folder", "out.mp4", "no/such/file.mp4", "x" * 300, "/dev/zero")
NAMES = ("none", "vid2vid", "tiny", "streaming-svd", "streaming-t2v", "onnxruntime", "crop", "warn")
words = st.sampled_from([*FILES, *NAMES, "", "-", "--", "1:2", "nan", "seam=3", "猫", "0: a; 9: b"])
values = numbers | words | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def lines(command: str) -> st.SearchStrategy[list[str]]:
    """Arguments of `command`: its own options with any values, and stray words."""
    path = command.split()
    found = functools.reduce(lambda group, name: group.commands[name], path, APP)  # type: ignore[attr-defined]
    names = [name for option in found.params for name in option.opts if name.startswith("-")]
    option = st.sampled_from([name for name in names if name != "--help"])
    part = st.tuples(option, values).map(list) | st.builds("{}={}".format, option, values).map(lambda x: [x])
    parts = st.lists(part | option.map(lambda name: [name]) | values.map(lambda x: [x]), max_size=6)
    return parts.map(lambda parts: [*path, *(word for part in parts for word in part)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for a small picture."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (128, 64), "navy").save("picture.png")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", ["plan", "models", "mawe", "engines list", "engines show", "engines prune"])
@amounts
def test_any_words(command: str, examples: int, folder: Path) -> None:
    def check(line: list[str]) -> None:
        code, err = said(line)
        assert code in (0, 1, 2)
        assert "--debug" not in err
        assert code == 0 or re.search(r"^stt2v: error: [^\n]+\n\Z", err, re.MULTILINE)

    search(4 * examples, check, line=lines(command))


@amounts
def test_generate_of_any_words(examples: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where the work would begin, which stands for a video."""

    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr("stt2v.engine.pipeline.Pipeline.frames", begin)

    def check(line: list[str]) -> None:
        code, err = said(line)
        assert code in (0, 1, 2)
        if "Begun" not in err:
            assert "--debug" not in err
            assert re.search(r"^stt2v: error: [^\n]+\n\Z", err, re.MULTILINE)
        assert {path.name for path in folder.iterdir()} <= {"picture.png", "folder", "out"}

    search(4 * examples, check, line=lines("generate"))
