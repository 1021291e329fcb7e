"""The doctor names what is missing and never fails itself."""

import importlib.metadata
import json
import stat
from pathlib import Path

import pytest

from stt2v import cli
from stt2v.engine import doctor
from stt2v.engine.backends import BACKENDS
from stt2v.engine.doctor import Finding, examine
from stt2v.engine.errors import BackendError
from stt2v.engine.home import make_key
from stt2v.engine.models import MODELS, find_model
from stt2v.engine.store import built_set


def finding(subject: str) -> Finding:
    return next(found for found in examine() if found.subject == subject)


def nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name in the only folder that is searched."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def test_every_model_is_looked_for() -> None:
    assert {found.subject for found in examine()} >= {"python", "processor", "gpu", "onnxruntime", "export", *MODELS}


def test_no_driver_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert finding("gpu").mark == "--"
    assert "no NVIDIA driver" in finding("gpu").words


def test_gpus_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "echo 'Card A, 24564, 580.1, 8.9'; echo 'Card B, 16376, 580.1, 12.0'", monkeypatch)
    words = "Card A (sm_89), 24 GiB, driver 580.1; Card B (sm_120), 16 GiB, driver 580.1"
    assert finding("gpu") == Finding("gpu", "ok", words)


def test_a_broken_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, "exit 9", monkeypatch)
    assert finding("gpu").mark == "BAD"
    assert "mend the NVIDIA driver" in finding("gpu").words


def test_onnxruntime_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def runtime() -> None:
        raise BackendError("onnxruntime is not installed; pip install 'stt2v[cpu]'")

    monkeypatch.setattr(doctor, "runtime", runtime)
    assert finding("onnxruntime") == Finding(
        "onnxruntime", "BAD", "onnxruntime is not installed; pip install 'stt2v[cpu]'"
    )


def test_torch_missing_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert finding("export").mark == "--"
    assert "stt2v[export]" in finding("export").words


def test_engine_sets_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    assert finding("tiny").mark == "ok"
    assert finding("streaming-svd").mark == "--"
    folder = built_set(find_model("streaming-svd"), "onnxruntime", "cpu", "fp32")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert finding("streaming-svd").mark == "BAD"
    assert "is not the manifest of an engine set" in finding("streaming-svd").words


def test_engine_set_without_its_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "why_not", lambda name, device=None: f"backend {name!r} needs a thing")
    assert finding("tiny").mark == "BAD"
    assert finding("tiny").words.endswith("cannot be used: backend 'onnxruntime' needs a thing")
    assert finding("tensorrt-rtx") == Finding("tensorrt-rtx", "--", "backend 'tensorrt-rtx' needs a thing")


def test_every_backend_is_tried() -> None:
    assert {found.subject for found in examine()} >= set(BACKENDS)


@pytest.mark.parametrize(
    ("capability", "options"),
    [("8.9", "--backend tensorrt-rtx --target sm_89`"), ("9.0", "--backend inductor --precision fp16`")],
)
def test_build_line_for_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, options: str
) -> None:
    nvidia_smi(tmp_path, f"echo 'Card, 24564, 580.1, {capability}'", monkeypatch)
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    assert f"for this card: `stt2v build-engines --model streaming-svd {options}" in finding("streaming-svd").words


def test_store_says_what_is_free_and_what_needs_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    assert "engine sets take 0 B, " in finding("store").words
    left = built_set(find_model("tiny"), "onnxruntime", "cpu", "fp32")
    left = left.with_name(f".{left.name}-abcdefgh")
    left.mkdir(parents=True)
    assert "that was stopped" in finding(left.name).words
    make_key()
    (tmp_path / "home" / "key").chmod(0o644)
    assert [found.mark for found in examine() if found.subject == "store"] == ["ok", "BAD"]


def test_for_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    findings = {row["subject"]: row["mark"] for row in json.loads(capsys.readouterr().out)["findings"]}
    assert (findings["tiny"], findings["gpu"]) == ("ok", "--")
