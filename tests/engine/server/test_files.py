"""Where a server keeps its files."""

import stat
from pathlib import Path

import pytest

from stt2v.engine.errors import OutputError
from stt2v.engine.server.files import Files


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_that_is_made_is_private_and_one_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    assert rights(Files.at(tmp_path / "new" / "data").folder) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    assert rights(Files.at(shared).queue) == 0o600
    assert rights(shared) == 0o755


@pytest.mark.parametrize("name", ["file", "file/data"])
def test_a_folder_that_cannot_be_had(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another --data"):
        Files.at(tmp_path / name)
