"""Inductor engines: compiled when they are built, loaded without compiling, weights in one file."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import toys
from counting_card import CountingCard

from stt2v.engine.backends.inductor import BRIEF, InductorBackend, open_on
from stt2v.engine.backends.inductor_recording import Recorder
from stt2v.engine.backends.inductor_values import TorchValue
from stt2v.engine.backends.inductor_weights import TABLE, CardWeights, Table
from stt2v.engine.backends.memory import HostMeter
from stt2v.engine.backends.residency import Residency
from stt2v.engine.errors import BackendError, ExportError, UsageError
from stt2v.engine.manifest import read_manifest
from stt2v.engine.models import find_model
from stt2v.engine.reference import read_reference
from stt2v.export.build import BuiltSet, build_engine_set
from stt2v.export.compilers import find_compiler
from stt2v.export.inductor_builder import Job
from stt2v.export.recipes import recipe_for
from stt2v.export.to_inductor import InductorCompiler

KINDS = ("image_encoder", "vae_encode", "conditions", "first_half", "update", "vae_decode_1")
KINDS += ("enhance_text_encoder", "enhance_8_conditions")
LOAD = """
import sys
from pathlib import Path
import torch._inductor.cpp_builder as builder
from stt2v.engine.backends import open_backend
from stt2v.engine.certificate import certify
from stt2v.engine.reference import read_reference
from stt2v.engine.trust import admit

def refuse(self):
    raise AssertionError("compiled at load")

builder.CppBuilder.build = refuse
directory = Path(sys.argv[1])
for entry in admit(directory).engines:
    reference = read_reference(directory, entry.spec.name)
    certify(open_backend("inductor", "cpu"), directory / entry.file, entry, reference).check()
    print(entry.spec.name)
"""
"""Run in a process of its own: certifies every engine of the set that it is given."""


def build(directory: Path, names: Sequence[str]) -> BuiltSet:
    graphs = {name: toys.GRAPHS[name] for name in names}
    return build_engine_set(toys.MODEL, graphs, "inductor", "fp32", "cpu", directory)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    return build(tmp_path_factory.mktemp("inductor") / "set", ["encoder", "update"])


def loaded_elsewhere(directory: Path) -> list[str]:
    """The engines that a fresh process, which is not able to compile, finds in parity."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_other_kernels_of_ours_make_sets_of_cards_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = InductorCompiler()
    monkeypatch.setattr(InductorCompiler, "own_target", lambda self: "cpu")
    assert "stt2v-kernels" not in compiler.tools()
    monkeypatch.setattr(InductorCompiler, "own_target", lambda self: "cuda")
    before = compiler.tools()
    monkeypatch.setattr("stt2v.kernels.__path__", [str(tmp_path)])
    (tmp_path / "gemm.py").write_text("ROWS = 64\n")
    after = compiler.tools()
    (tmp_path / "gemm.py").write_text("ROWS = 128\n")
    assert len({each["stt2v-kernels"] for each in (before, after, compiler.tools())}) == 3
    assert before == compiler.tools() | {"stt2v-kernels": before["stt2v-kernels"]}


def test_cards_before_ada_have_no_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_compiler("inductor", "cuda", "fp8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    with pytest.raises(UsageError, match="target 'cuda' has no FP8; choose another precision"):
        find_compiler("inductor", "cuda", "fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    assert find_compiler("inductor", "cuda", "fp8")


def test_is_in_parity_and_loads_without_compiling(built: BuiltSet) -> None:
    assert {row.graph: row.passed for row in built.parity} == {"encoder": True, "update": True}
    assert loaded_elsewhere(built.directory) == ["encoder", "update"]


def test_inputs_may_lie_in_memory_as_they_like(built: BuiltSet) -> None:
    for entry in read_manifest(built.directory).engines:
        reference = read_reference(built.directory, entry.spec.name)
        assert reference
        inputs = reference.inputs(entry.spec)
        turned = {name: np.asarray(value).T.copy().T for name, value in inputs.items()}
        held = {name: TorchValue(torch.from_numpy(value)) for name, value in turned.items()}
        with open_on().load(built.directory / entry.file, entry.spec) as engine:
            for name, value in engine.run(inputs).items():
                for others in (turned, held):
                    np.testing.assert_array_equal(np.asarray(engine.run(others)[name]), np.asarray(value))


def test_reuses_what_is_current(built: BuiltSet) -> None:
    again = build(built.directory, ["encoder"])
    assert [outcome.action for outcome in again.outcomes] == ["reused"]
    assert loaded_elsewhere(again.directory) == ["encoder"]
    build(built.directory, ["encoder", "update"])


def test_weights_are_in_one_file_once(built: BuiltSet) -> None:
    with zipfile.ZipFile(built.directory / "encoder.inductor") as file:
        rows = json.loads(file.read(TABLE))["weights"]
        assert sum(member.file_size for member in file.infolist() if member.filename.endswith(".so")) > 0
    assert (built.directory / "weights.bin").stat().st_size >= sum(row["bytes"] for row in rows) > 0


def test_what_cannot_run_is_told(built: BuiltSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose one of cpu, cuda"):
        open_on("tpu")
    spec = read_manifest(built.directory).engines[0].spec
    broken = tmp_path / "broken.inductor"
    broken.write_bytes(b"no zip")
    with pytest.raises(BackendError, match="build-engines"):
        open_on().load(broken, spec)
    engine = open_on().load(built.directory / "encoder.inductor", spec)
    with pytest.raises(BackendError, match="missing"):
        engine.run({})
    engine.close()
    with pytest.raises(BackendError, match="closed"):
        engine.run({tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in spec.inputs})


def test_a_graph_that_cannot_be_sent_to_its_builder_is_named(tmp_path: Path) -> None:
    with (
        patch.object(Job, "save", side_effect=AttributeError("Can't pickle")),
        pytest.raises(ExportError, match="graph 'update' cannot be sent"),
    ):
        build(tmp_path / "set", ["update"])


def test_weights_that_come_and_go_change_nothing(built: BuiltSet) -> None:
    """On the processor as if it were a card whose memory holds one engine at a time."""
    entries = [(built.directory / entry.file, entry.spec) for entry in read_manifest(built.directory).engines]
    tables = [Table.read(path) for path, _ in entries]
    budget = max(table.needs(spec).nbytes for table, (_, spec) in zip(tables, entries, strict=True))
    residency, card = Residency(budget), CountingCard(budget)
    weights = CardWeights(residency, card)
    backend = InductorBackend("cpu", weights, HostMeter(), Recorder(residency, card))
    backend.expect(entries)
    with ExitStack() as stack:
        engines = [
            [stack.enter_context(each.load(path, spec)) for each in (backend, open_on())] for path, spec in entries
        ]
        for engine, plain in engines * 2:
            reference = read_reference(built.directory, engine.spec.name)
            assert reference
            inputs = reference.inputs(engine.spec)
            given, wanted = engine.run(inputs), plain.run(inputs)
            for name, value in wanted.items():
                np.testing.assert_array_equal(np.asarray(given[name]), np.asarray(value))
    assert 0 < weights.residency.peak <= budget


def test_an_engine_is_loaded_while_another_runs(
    built: BuiltSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    entries = [(built.directory / entry.file, entry.spec) for entry in read_manifest(built.directory).engines]
    residency, card = Residency(1 << 30), CountingCard(1 << 30)
    backend = InductorBackend("cpu", CardWeights(residency, card), HostMeter(), Recorder(residency, card))
    before = dict(os.environ)
    backend.expect(entries)
    with backend.load(*entries[0]) as engine:
        inputs = {each.name: np.ones(each.shape, each.dtype) for each in engine.spec.inputs}
        for _ in range(BRIEF):
            engine.run(inputs)
        assert [path.name for path in tmp_path.iterdir()] == [Path(engine._folder.name).name]
        engine.run(inputs)
        backend.expect(entries)  # the first is open and not loaded again, the second on its way
        assert backend.loads.take(engine.spec.name) is None
        second = backend.load(*entries[1])
        second.run({each.name: np.ones(each.shape, each.dtype) for each in second.spec.inputs})
        second.close()
        backend.expect(entries)
        backend.expect(())  # the second was loaded again, and nobody asked for it
        assert len([*tmp_path.iterdir()]) == 1
    assert not [*tmp_path.iterdir()]
    assert dict(os.environ) == before


@pytest.mark.slow
def test_networks_of_each_kind_are_in_parity(tmp_path: Path) -> None:
    """At toy width. All of `tiny` takes half an hour on two cores, its interpolators eight minutes of that."""
    model = find_model("tiny")
    graphs = {name: make for name, make in recipe_for(model, None).graphs.items() if name in KINDS}
    built = build_engine_set(model.to_json(), graphs, "inductor", "fp32", "cpu", tmp_path / "set")
    assert {row.graph: row.passed for row in built.parity} == dict.fromkeys(KINDS, True)
    assert loaded_elsewhere(built.directory) == [*graphs]
