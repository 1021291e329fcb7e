"""Every set that is shipped is pinned as it is, and one command pins it."""

import shutil
from pathlib import Path

from stt2v.engine import pinned
from stt2v.export.pin import pin, shipped_hashes


def test_shipped_sets_are_pinned() -> None:
    assert shipped_hashes() == {name: dict(files) for name, files in pinned.PINNED.items()}, "run `make pin`"


def test_pinning_again_changes_nothing(tmp_path: Path) -> None:
    source = Path(pinned.__file__)
    copy = shutil.copy(source, tmp_path)
    pin(Path(copy))
    assert Path(copy).read_text() == source.read_text()
