"""Sets that are whole and yet cannot be used: of another backend, or with a model declared in other words."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stt2v.engine import engine_set
from stt2v.engine.backends.base import Engine
from stt2v.engine.backends.ort import HostEngine, OrtBackend
from stt2v.engine.engine_set import EngineSet, LateEngine, Without
from stt2v.engine.errors import BackendError, EngineSetError, UsageError
from stt2v.engine.manifest import MANIFEST, Manifest, write_manifest
from stt2v.engine.models import find_model
from stt2v.engine.seal import seal
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec
from stt2v.engine.stages.denoise import fused_steps
from stt2v.engine.store import SHIPPED

DECLARED = find_model("tiny").to_json()


def write(directory: Path, model: Mapping[str, object], backend: str = "onnxruntime") -> None:
    write_manifest(directory, Manifest("9.9", model, backend, "cpu", "fp32", {}, (), {}))
    seal(directory, MANIFEST)


def test_declaration_is_read(tmp_path: Path) -> None:
    write(tmp_path, DECLARED)
    with EngineSet.open(tmp_path) as engines:
        assert engines.model == find_model("tiny")


@pytest.mark.parametrize(
    "model",
    [
        {**DECLARED, "colour": "blue"},
        {key: value for key, value in DECLARED.items() if key != "first"},
        {key: value for key, value in DECLARED.items() if key != "width"},
        {**DECLARED, "streaming": {**DECLARED["streaming"], "guidance": [1.0]}},
        {**DECLARED, "enhancing": {"name": "vid2vid"}},
    ],
    ids=["unknown", "no-first", "no-width", "guidance", "enhancing"],
)
def test_other_declaration_is_refused(tmp_path: Path, model: Mapping[str, object]) -> None:
    write(tmp_path, model)
    with pytest.raises(EngineSetError, match=r"manifest\.json: declares.*built by 9\.9\); run `stt2v build-engines`"):
        EngineSet.open(tmp_path)


def test_set_of_another_backend_is_refused(tmp_path: Path) -> None:
    write(tmp_path, DECLARED, "tensorrt-rtx")
    with pytest.raises(UsageError, match="is for backend 'tensorrt-rtx', expected 'onnxruntime'"):
        Session.open("tiny", tmp_path, "onnxruntime")
    with pytest.raises(UsageError, match="'abacus' is not known"):
        Session.open("tiny", tmp_path, "abacus")


def test_engines_are_loaded_when_they_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = OrtBackend.load

    def noted(self: OrtBackend, path: Path, spec: EngineSpec) -> HostEngine:
        loaded.append(spec.name)
        return load(self, path, spec)

    monkeypatch.setattr(OrtBackend, "load", noted)
    with EngineSet.open(SHIPPED / "tiny") as engines:
        engine = engines["update"]
        inputs = {each.name: np.ones(each.shape, each.dtype) for each in engine.spec.inputs}
        assert loaded == []
        first, second = engine.run(inputs), engine.run(inputs)
        np.testing.assert_array_equal(np.asarray(first["x_next"]), np.asarray(second["x_next"]))
        assert loaded == ["update"]
        never = engines["half"]
        engines.unload(["update", "half"])
        for closed in (engine, never):
            with pytest.raises(BackendError, match="is closed"):
                closed.run(inputs)
        engines["update"].run(inputs)
    assert loaded == ["update", "update"]


def test_threads_that_ask_at_once_get_the_same_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks while another one's engine is made."""
    others: list[Engine] = []

    class Slow(LateEngine):
        def __init__(self, spec: EngineSpec, load: Callable[[], Engine]) -> None:
            super().__init__(spec, load)
            monkeypatch.setattr(engine_set, "LateEngine", LateEngine)
            others.append(thread.submit(engines.__getitem__, "update").result())

    monkeypatch.setattr(engine_set, "LateEngine", Slow)
    with EngineSet.open(SHIPPED / "tiny") as engines, ThreadPoolExecutor(1) as thread:
        assert [engines["update"]] == others


def test_engines_can_be_unloaded_and_left_out() -> None:
    with EngineSet.open(SHIPPED / "tiny") as engines:
        steps = fused_steps(engines)
        assert sorted(steps) == ["enhance_8_step", "first_step", "step"]
        first = engines["step"]
        engines.unload(steps)
        assert engines["step"] is not first
        rest = Without(engines, frozenset(steps))
        assert len(rest) == len(engines) - 3
        assert set(rest) == set(engines) - set(steps)
        assert "step" not in rest
        assert rest["half"] is engines["half"]
        assert fused_steps(rest) == []
        with pytest.raises(KeyError):
            _ = rest["step"]
