"""Frames that a quality report keeps, as they are read again."""

from pathlib import Path

import numpy as np
import pytest

from stt2v.bench.agreement import _kept_frames
from stt2v.bench.quality import KEPT, save_base
from stt2v.engine.errors import InputError


def test_kept_frames_lie_where_they_should(tmp_path: Path) -> None:
    base = np.arange(2 * KEPT * 12, dtype=np.uint8).reshape(2 * KEPT, 1, 2, 2, 3)
    save_base(base, tmp_path / "kept")
    assert np.array_equal(_kept_frames(tmp_path / "kept"), base[:KEPT])


@pytest.mark.parametrize("contents", [None, b"", b"PK\3\4 and no more", b"a text", "array", "other"])
def test_what_holds_no_frames_is_refused(contents: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents:
        with path.open("wb") as file:
            np.save(file, np.ones(3)) if contents == "array" else np.savez(file, other=np.ones(3))
    with pytest.raises(InputError, match="holds no frames"):
        _kept_frames(path)
