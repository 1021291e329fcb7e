"""Damaged engine sets and weights: they open as what they say, or one line says why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from fuzz.mutation import amounts, damaged, damaged_json, refused_in_one_line, search
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.manifest import MANIFEST, digested, file_entries, read_manifest, write_manifest
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.store import SHIPPED

TINY = SHIPPED / "tiny"
TOKENIZER = "enhance_tokenizer.json"


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """A set of the shipped one's form with two engines, whose files hold nothing."""
    manifest = read_manifest(TINY)
    engines = manifest.engines[:2]
    for entry in engines:
        (tmp_path / entry.file).write_bytes(b"engine")
    files = file_entries(tmp_path, [entry.file for entry in engines])
    write_manifest(tmp_path, type(manifest)(**{**vars(manifest), "engines": engines, "files": files}))
    return tmp_path


@amounts
def test_damaged_manifests(examples: int, small_set: Path) -> None:
    def check(data: bytes) -> None:
        (small_set / MANIFEST).write_bytes(data)
        with refused_in_one_line():
            EngineSet.open(small_set, trust=True).close()

    search(examples, check, data=damaged((small_set / MANIFEST).read_bytes()))


@amounts
def test_manifests_that_say_something_else(examples: int, small_set: Path) -> None:
    """With the digest made anew, so that what is read is what was changed."""
    data = json.loads((small_set / MANIFEST).read_text())
    del data["digest"]

    def check(changed: Any) -> None:
        (small_set / MANIFEST).write_text(digested(changed) if isinstance(changed, dict) else json.dumps(changed))
        with refused_in_one_line():
            EngineSet.open(small_set, trust=True).close()

    search(4 * examples, check, changed=damaged_json(data))


@amounts
def test_damaged_tokenizers(examples: int, tmp_path: Path) -> None:
    path = tmp_path / TOKENIZER

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with refused_in_one_line():
            assert Tokenizer(path)("a boat").ndim == 2

    small = json.loads((TINY / TOKENIZER).read_text())
    search(examples, check, data=damaged(json.dumps(small).encode()))


@amounts
def test_damaged_weights(examples: int, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save

    from stt2v.export.weights.folder import WeightFolder

    whole = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)})

    def check(data: bytes) -> None:
        (tmp_path / "net.safetensors").write_bytes(data)
        with refused_in_one_line():
            state = WeightFolder(tmp_path).read("net")
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

    search(4 * examples, check, data=damaged(whole))
