from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.errors import EngineSetError
from stt2v.engine.models import find_model
from stt2v.engine.models.enhancers import choose_enhancer
from stt2v.engine.store import SHIPPED, built_set, find_set


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an engine set in an empty store."""
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))

    def make(
        model: str,
        backend: str = "onnxruntime",
        target: str = "cpu",
        enhancer: str | None = None,
        random: bool = False,
        width: int | None = None,
    ) -> Path:
        own = find_model(model)
        declared = replace(own, width=width or own.width, enhancing=choose_enhancer(own, enhancer))
        folder = built_set(declared, backend, target, "fp32", random)
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
        return folder

    return make


def test_built_set_comes_before_the_shipped_one(make) -> None:
    assert find_set("tiny") == SHIPPED / "tiny"
    assert make("tiny") == find_set("tiny") == find_set("tiny", "onnxruntime")


@pytest.mark.parametrize(("backend", "target"), [("tensorrt-rtx", "sm_86+sm_89"), ("onnxruntime", "cuda")])
def test_set_for_another_machine_is_not_taken(make, backend: str, target: str) -> None:
    make("streaming-svd", backend, target)
    make("tiny", backend, target)
    assert find_set("tiny") == SHIPPED / "tiny"
    with pytest.raises(EngineSetError, match="build-engines --model streaming-svd"):
        find_set("streaming-svd")


@pytest.mark.parametrize("other", [{"random": True}, {"enhancer": "vid2vid"}, {"enhancer": "none"}, {"width": 512}])
def test_other_sets_lie_apart_and_are_not_taken(make, other: dict[str, object]) -> None:
    make("streaming-svd", **other)
    make("streaming-svd", **{"enhancer": "vid2vid", "random": True} | other | {"width": 640})
    with pytest.raises(EngineSetError, match="build-engines --model streaming-svd`"):
        find_set("streaming-svd")
    own = make("streaming-svd")
    make("streaming-svd", **{**other, "width": 768})  # newer
    assert find_set("streaming-svd") == own


def test_enhancer_that_is_asked_for(make) -> None:
    own, other = make("streaming-svd"), make("streaming-svd", enhancer="vid2vid")
    make("streaming-svd", enhancer="vid2vid", random=True)
    assert find_set("streaming-svd", enhancer="vid2vid") == other
    assert find_set("streaming-svd", enhancer="i2vgen-xl") == find_set("streaming-svd", enhancer="none") == own
    without = make("streaming-t2v", enhancer="none")
    assert find_set("streaming-t2v", enhancer="none") == without
    with pytest.raises(EngineSetError, match="build-engines --model streaming-t2v --enhancer i2vgen-xl`"):
        find_set("streaming-t2v", enhancer="i2vgen-xl")


def test_set_for_a_card_that_is_not_here_is_passed_over(make) -> None:
    make("tiny", "tensorrt-rtx", "sm_01")
    with pytest.raises(EngineSetError, match="build-engines --model tiny --backend tensorrt-rtx"):
        find_set("tiny", "tensorrt-rtx")


def test_names_say_what_is_unusual(make) -> None:
    assert make("streaming-svd").name == "streaming-svd-1024x576-onnxruntime-cpu-fp32"
    assert make("streaming-svd", enhancer="none").name.endswith("-fp32-noenhancer")
    assert make("streaming-svd", enhancer="vid2vid", random=True).name.endswith("-fp32-vid2vid-random")
