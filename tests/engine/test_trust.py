"""Which engine sets are refused, by which name, before anything of them is deserialised."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine import engine_set, pinned
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import EngineSetError
from stt2v.engine.manifest import MANIFEST, PARITY, Manifest, file_entries, read_manifest, write_manifest
from stt2v.engine.seal import SUFFIX, seal
from stt2v.engine.store import SHIPPED
from stt2v.engine.trust import admit

TINY = SHIPPED / "tiny"


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened_backends(manifest: Manifest) -> None:
        raise AssertionError("a set that should have been refused was opened")

    monkeypatch.setattr(engine_set, "opened_backends", opened_backends)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A set as this user's store makes it: that of `tiny` with another manifest, so that no pin is of it."""
    directory = tmp_path / "own"
    shutil.copytree(TINY, directory)
    write_manifest(directory, replace(read_manifest(directory), stt2v="other"))
    for name in (MANIFEST, PARITY):
        seal(directory, name)
    return directory


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


def test_own_and_shipped_sets_are_admitted(own: Path) -> None:
    assert admit(own).stt2v == "other"
    assert admit(TINY) == read_manifest(TINY)


@pytest.mark.parametrize("name", ["step.onnx", "weights.bin", "enhance_tokenizer.json", MANIFEST, PARITY])
@pytest.mark.parametrize("place", [0, 1234567, -1])
def test_flipped_byte_is_refused_by_name(own: Path, name: str, place: int) -> None:
    flip(own / name, place)
    with pytest.raises(EngineSetError, match=f"{name}: is not"):
        EngineSet.open(own)


@pytest.mark.parametrize("name", [MANIFEST, PARITY])
def test_seal_that_was_changed_or_taken_away(own: Path, name: str) -> None:
    flip(own / f"{name}{SUFFIX}", 5)
    with pytest.raises(EngineSetError, match=rf"{name}: .*stt2v build-engines.*--trust"):
        EngineSet.open(own)
    (own / f"{name}{SUFFIX}").unlink()
    with pytest.raises(EngineSetError, match=rf"{name}: .*--trust"):
        EngineSet.open(own)


def test_foreign_set_needs_trust(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(EngineSetError, match=r"manifest\.json: .*made elsewhere.*--trust"):
        EngineSet.open(own)
    assert admit(own, trust=True).stt2v == "other"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", ["step.onnx", "weights.bin", MANIFEST])
def test_trust_is_of_origin_not_of_damage(own: Path, name: str) -> None:
    flip(own / name, 1000)
    with pytest.raises(EngineSetError, match=name):
        admit(own, trust=True)


def test_certificate_of_another_set(own: Path) -> None:
    """Sealed by the same user, and yet not this set's."""
    other = own.with_name("other")
    shutil.copytree(own, other)
    write_manifest(other, replace(read_manifest(other), stt2v="another"))
    seal(other, MANIFEST)
    with pytest.raises(EngineSetError, match=PARITY):
        EngineSet.open(other)


@pytest.mark.parametrize("name", ["step.onnx", MANIFEST, PARITY])
def test_link_out_of_the_set(own: Path, tmp_path: Path, name: str) -> None:
    (own / name).rename(tmp_path / name)
    (own / name).symlink_to(tmp_path / name)
    with pytest.raises(EngineSetError, match=rf"'{name}'.* leads out of the engine set"):
        EngineSet.open(own)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "inner/../../secret"])
def test_manifest_that_leads_out_of_the_set(own: Path, name: str) -> None:
    """Even when this user sealed it."""
    (own.parent / "secret").write_bytes(b"secret")
    manifest = read_manifest(own)
    entry = file_entries(own.parent, ["secret"])["secret"]
    write_manifest(own, replace(manifest, files={**manifest.files, name: entry}))
    seal(own, MANIFEST)
    with pytest.raises(EngineSetError, match="leads out of the engine set"):
        EngineSet.open(own)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("choose", [Path, lambda own: own / "step.onnx", lambda own: own / MANIFEST])
def test_set_of_another_user(own: Path, choose: Callable[[Path], Path]) -> None:
    path = choose(own)
    os.chown(path, 12345, -1)
    with pytest.raises(EngineSetError, match=rf"{path.name}: belongs to another user \(uid 12345\)"):
        EngineSet.open(own)
    assert admit(own, trust=True).stt2v == "other"


def test_shipped_set_that_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt2v.engine.seal.PINNED", {})
    with pytest.raises(EngineSetError, match=r"tiny/manifest\.json"):
        EngineSet.open(TINY)
    assert set(pinned.PINNED) == {path.name for path in SHIPPED.iterdir()}
