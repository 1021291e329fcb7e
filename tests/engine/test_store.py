from pathlib import Path

import pytest

from stt2v.engine.errors import EngineSetError
from stt2v.engine.store import SHIPPED, built_set, find_set


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an engine set of a backend in an empty store."""
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))

    def make(model: str, backend: str, target: str) -> Path:
        folder = built_set(model, backend, target, "fp32", 128, 64)
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
        return folder

    return make


def test_built_set_comes_before_the_shipped_one(make) -> None:
    assert find_set("tiny") == SHIPPED / "tiny"
    assert make("tiny", "onnxruntime", "cpu") == find_set("tiny") == find_set("tiny", "onnxruntime")


def test_set_for_another_machine_is_not_taken(make) -> None:
    make("streaming-svd", "tensorrt-rtx", "sm_86+sm_89")
    make("tiny", "tensorrt-rtx", "sm_89")
    assert find_set("tiny") == SHIPPED / "tiny"
    with pytest.raises(EngineSetError, match="build-engines --model streaming-svd"):
        find_set("streaming-svd")
