import json
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.errors import EngineSetError
from stt2v.engine.manifest import EngineEntry, Manifest, file_entries, read_manifest, verify, write_manifest
from stt2v.engine.spec import EngineSpec, TensorSpec

SPEC = EngineSpec("step", (TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", (2,)),))
ENTRY = EngineEntry(SPEC, "step.onnx", "fake", "cpu", "fp32", "a" * 64, "b" * 64, 24, 8, 1.5)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "step.onnx").write_bytes(b"graph" * 100)
    (tmp_path / "weights.bin").write_bytes(b"numbers" * 100)
    files = file_entries(tmp_path, ("weights.bin", "step.onnx"))
    made = Manifest("0.1", {"name": "toy", "size": [8, 8]}, "fake", "cpu", "fp32", {"torch": "2"}, (ENTRY,), files)
    write_manifest(tmp_path, made)
    return made


def test_round_trip(tmp_path: Path, manifest: Manifest) -> None:
    assert read_manifest(tmp_path) == manifest
    verify(tmp_path, manifest)
    text = (tmp_path / "manifest.json").read_text()
    write_manifest(tmp_path, replace(manifest, files=dict(reversed(manifest.files.items()))))
    assert (tmp_path / "manifest.json").read_text() == text


@pytest.mark.parametrize("name", ["step.onnx", "weights.bin"])
def test_changed_byte_is_refused_by_name(tmp_path: Path, manifest: Manifest, name: str) -> None:
    data = bytearray((tmp_path / name).read_bytes())
    data[57] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(EngineSetError, match=rf"{name}.*stt2v build-engines"):
        verify(tmp_path, manifest)


def test_every_changed_byte_of_the_manifest_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "manifest.json"
    original = path.read_bytes()
    for place in range(0, len(original), 7):
        data = bytearray(original)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(EngineSetError, match=r"manifest\.json.*stt2v build-engines"):
            read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"format": 1}', '{"format": 1, "engines": 3, "files": 0}']
)
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(EngineSetError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_other_format_is_named(tmp_path: Path, manifest: Manifest) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(EngineSetError, match="format 99, this stt2v reads format 2"):
        read_manifest(tmp_path)


def test_no_engine_set(tmp_path: Path) -> None:
    with pytest.raises(EngineSetError, match=r"expected an engine set.*stt2v build-engines"):
        read_manifest(tmp_path / "nowhere")


def test_missing_file_is_named(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(EngineSetError, match=r"weights\.bin: is missing"):
        verify(tmp_path, manifest)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "inner/../../secret", "link"])
def test_path_out_of_the_set_is_refused(tmp_path: Path, manifest: Manifest, name: str) -> None:
    secret = tmp_path.parent / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "link").symlink_to(secret)
    entry = file_entries(tmp_path.parent, ["secret"])["secret"]
    with pytest.raises(EngineSetError, match="leads out of the engine set"):
        verify(tmp_path, replace(manifest, files={**manifest.files, name: entry}))


def test_engine_without_hash_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(EngineSetError, match=r"other\.onnx: has no hash"):
        verify(tmp_path, replace(manifest, engines=(replace(ENTRY, file="other.onnx"),)))


def test_notes_survive_and_are_left_out_where_there_are_none(tmp_path: Path, manifest: Manifest) -> None:
    assert "notes" not in (tmp_path / "manifest.json").read_text()
    noted = replace(manifest, engines=(replace(ENTRY, notes={"fused_attentions": 3}),))
    write_manifest(tmp_path, noted)
    assert read_manifest(tmp_path) == noted


def test_weights_hash_follows_the_engines(manifest: Manifest) -> None:
    other = replace(manifest, engines=(replace(ENTRY, weights_hash="c" * 64),))
    assert other.weights_hash != manifest.weights_hash
    assert replace(manifest, target="sm_89").weights_hash == manifest.weights_hash
