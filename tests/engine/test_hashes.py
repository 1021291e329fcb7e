"""Hashes that are remembered: only of large files, only while nobody touched them, only as this user wrote them."""

import os
import time
from pathlib import Path

import pytest

from stt2v.engine import hashes
from stt2v.engine.hashes import HASHES, known_hashes
from stt2v.engine.home import KEY, home
from stt2v.engine.manifest import hash_file

NAME = "weights.bin"
PAST = (1e9, 1e9)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read in order to hash them."""
    read: list[Path] = []

    def hash_and_tell(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr(hashes, "hash_file", hash_and_tell)
    monkeypatch.setattr(hashes, "LARGE", 4)
    monkeypatch.setattr(hashes, "SETTLED", -60.0)  # what is new counts as old
    return read


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / NAME).write_bytes(b"weights")
    return tmp_path / NAME


def hash_of(path: Path) -> str:
    with known_hashes(path.parent) as found:
        return found(path)


def test_a_large_file_is_read_once(weights: Path, hashed: list[Path]) -> None:
    assert [hash_of(weights) for _ in range(3)] == [hash_file(weights)] * 3
    assert hashed == [weights]


def test_a_small_file_and_a_new_one_are_read_again(
    weights: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED", 2.0)
    hash_of(weights)
    monkeypatch.setattr(hashes, "SETTLED", -60.0)
    monkeypatch.setattr(hashes, "LARGE", 64)
    hash_of(weights)
    assert hashed == [weights] * 2
    assert not (weights.parent / HASHES).exists()


def test_a_file_that_was_touched_is_read_again(weights: Path, hashed: list[Path]) -> None:
    os.utime(weights, PAST)
    hash_of(weights)
    time.sleep(0.05)  # older kernels give times of one tick of their clock, which is what `SETTLED` is for
    weights.write_bytes(b"strange")  # as many bytes
    os.utime(weights, PAST)  # and the time that it had
    assert hash_of(weights) == hash_file(weights)
    replaced = weights.with_suffix(".new")
    replaced.write_bytes(b"another")
    replaced.replace(weights)
    assert hash_of(weights) == hash_file(weights)
    assert hashed == [weights] * 3


def test_without_a_place_for_the_key_nothing_is_remembered(
    weights: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT2V_HOME", "/proc/home")
    assert [hash_of(weights) for _ in range(2)] == [hash_file(weights)] * 2
    assert hashed == [weights] * 2


@pytest.mark.parametrize("text", ["", "{}", "0\n{}", "\n[", "\xff"])
def test_what_somebody_else_wrote_does_not_count(weights: Path, hashed: list[Path], text: str) -> None:
    known = weights.parent / HASHES
    hash_of(weights)
    known.write_text(text, encoding="latin-1")
    assert hash_of(weights) == hash_file(weights)
    (home() / KEY).unlink()  # another user has another key
    hash_of(weights)
    assert hashed == [weights] * 3


def test_nothing_is_remembered_of_a_set_that_is_refused(weights: Path, hashed: list[Path]) -> None:
    def refuse() -> None:
        with known_hashes(weights.parent) as found:
            found(weights)
            raise KeyError

    with pytest.raises(KeyError):
        refuse()
    hash_of(weights)
    assert hashed == [weights] * 2


def test_a_link_to_another_file_is_not_followed(weights: Path, hashed: list[Path]) -> None:
    other = weights.with_name("other")
    other.write_text("precious")
    (weights.parent / HASHES).symlink_to(other)
    assert [hash_of(weights) for _ in range(2)] == [hash_file(weights)] * 2
    assert other.read_text() == "precious"
    assert hashed == [weights]
    assert {path.name for path in weights.parent.iterdir()} == {NAME, HASHES, "other"}


def test_without_a_key_everything_is_read_again(
    weights: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STT2V_HOME", str(weights.parent / "home"))
    hash_of(weights)
    (home() / KEY).chmod(0o644)  # others can read it
    assert hash_of(weights) == hash_file(weights)
    (weights.parent / HASHES).unlink()
    hash_of(weights)
    assert hashed == [weights] * 3
