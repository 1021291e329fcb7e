"""The doctor names what is missing and never fails itself."""

import importlib.metadata
import stat
from pathlib import Path

import pytest

from stt2v.engine import doctor
from stt2v.engine.doctor import Finding, examine
from stt2v.engine.errors import BackendError
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
    nvidia_smi(tmp_path, "echo 'Card A, 24564 MiB, 580.1'; echo 'Card B, 16376 MiB, 580.1'", monkeypatch)
    assert finding("gpu") == Finding("gpu", "ok", "Card A, 24564 MiB, 580.1; Card B, 16376 MiB, 580.1")


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
    def open_backend(name: str, device: str) -> None:
        raise BackendError(f"backend {name!r} needs a thing")

    monkeypatch.setenv("STT2V_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "open_backend", open_backend)
    assert finding("tiny").mark == "BAD"
    assert finding("tiny").words.endswith("cannot be used: backend 'onnxruntime' needs a thing")
