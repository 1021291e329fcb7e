"""Tokenizers of engine sets."""

from pathlib import Path

import pytest

from stt2v.engine.errors import ExportError
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.export.tokenizers import byte_tokenizer, read_tokenizer


def saved(text: str, folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    path.write_text(text, encoding="utf-8")
    return Tokenizer(path)


def test_text_lies_between_two_marks_and_is_filled_up(tmp_path: Path) -> None:
    tokens = saved(byte_tokenizer(), tmp_path)("a cat")
    assert tokens.shape == (1, 77)
    start, *_, end = tokens[0]
    assert (start, end) == (256, 257)
    assert (tokens[0] == 257).sum() == 77 - 1 - len("a cat")


def test_long_text_and_every_script_fit(tmp_path: Path) -> None:
    tokenize = saved(byte_tokenizer(), tmp_path)
    for text in ("x" * 1000, "猫が歩く", "قطة", "", "\N{CAT FACE}" * 40):
        tokens = tokenize(text)
        assert tokens.shape == (1, 77)
        assert 257 in tokens
        assert tokens.max() < 258


def test_padding_is_the_one_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_tokenizer(), encoding="utf-8")
    exclamation = Tokenizer(path)("!")[0, 1]
    tokens = saved(read_tokenizer(path, padding="!"), tmp_path)("a")
    assert tokens[0, 3:].tolist() == [exclamation] * 74


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ExportError, match="no tokenizer"):
        read_tokenizer(tmp_path / "tokenizer.json")
