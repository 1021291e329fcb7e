import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stt2v.engine.errors import EngineSetError, UsageError
from stt2v.engine.home import KEY, find_key, home, make_key


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "cache" / "stt2v"))


def test_key_is_made_once_and_for_this_user_alone() -> None:
    assert find_key() is None
    assert not home().exists()
    key = make_key()
    assert (make_key(), find_key(), len(key)) == (key, key, 32)
    assert stat.S_IMODE(home().stat().st_mode) == 0o700
    assert stat.S_IMODE((home() / KEY).stat().st_mode) == 0o600
    assert [path.name for path in home().iterdir()] == [KEY]


def test_without_a_home_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STT2V_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UsageError, match="set STT2V_HOME"):
        home()


def test_a_home_that_is_no_folder_has_no_key() -> None:
    home().parent.mkdir()
    home().touch()
    with pytest.raises(EngineSetError, match=r"stt2v/key cannot be read \(Not a directory\); set STT2V_HOME"):
        find_key()


def test_many_at_once_agree() -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: make_key(), range(8)))
    assert keys == {find_key()}


def test_key_that_others_can_read_proves_nothing() -> None:
    make_key()
    (home() / KEY).chmod(0o640)
    with pytest.raises(EngineSetError, match="others can read it"):
        find_key()


def test_key_that_was_cut_proves_nothing() -> None:
    make_key()
    (home() / KEY).write_bytes(b"")
    with pytest.raises(EngineSetError, match=r"key: is damaged"):
        make_key()
