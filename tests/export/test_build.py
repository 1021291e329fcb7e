from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import toys
from torch import nn

from stt2v.engine import hashes
from stt2v.engine.backends import open_backend, ort
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import BackendError, ExportError, StoppedError, UsageError
from stt2v.engine.parity import read_parity
from stt2v.engine.trust import admit
from stt2v.export import to_ort
from stt2v.export.build import BuiltSet, EngineSetBuild, Graphs, build_engine_set
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.reference import seeded_inputs

PHASES = ("capture", "compile", "reference", "parity", "built")
GRAPHS: Graphs = {"half": toys.half, "update": toys.update}


class Listener:
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.steps: list[tuple[int, Mapping[str, Any]]] = []
        self.notes: list[str] = []

    def stage(self, name: str, total: int) -> None:
        self.stages.append((name, total))

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        self.steps.append((steps, info))

    def note(self, line: str) -> None:
        self.notes.append(line)


def build(directory: Path, graphs: Graphs = GRAPHS, listener: Listener | None = None, **changes: Any) -> BuiltSet:
    facts = {"model": toys.MODEL, "backend": "onnxruntime", "precision": "fp32", "target": "cpu"} | changes
    return build_engine_set(**facts, graphs=graphs, directory=directory, progress=listener)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[BuiltSet, Listener]:
    listener = Listener()
    return build(tmp_path_factory.mktemp("sets") / "toy", listener=listener), listener


def test_set_is_whole_and_in_parity(built) -> None:
    result, _ = built
    manifest = admit(result.directory)
    assert manifest == result.manifest
    assert manifest.model["sizes"] == [8, 8]
    references = {f"{name}.reference.safetensors" for name in GRAPHS}
    assert set(manifest.files) == {"half.onnx", "update.onnx", "weights.bin", *references}
    assert [entry.spec.name for entry in manifest.engines] == ["half", "update"]
    assert [row.graph for row in result.parity] == ["half", "update"]
    assert all(row.passed and row.limit == 1e-4 for row in result.parity)
    assert read_parity(result.directory) == result.parity


def test_first_run_hashes_nothing_that_the_build_did(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "LARGE", 1)
    monkeypatch.setattr(hashes, "SETTLED", -60.0)  # what is new counts as old
    result = build(tmp_path / "toy")
    monkeypatch.setattr(hashes, "hash_file", lambda path: pytest.fail(f"{path} is read again"))
    assert admit(result.directory) == result.manifest


def test_costs_are_recorded(built) -> None:
    half, update = built[0].manifest.engines
    weights = sum(parameter.nbytes for parameter in toys.half().module.parameters())
    assert weights <= half.weight_bytes < weights + 1024
    assert update.weight_bytes < 1024
    assert half.activation_bytes > 0
    assert half.seconds > 0


def test_engines_of_the_set_run(built) -> None:
    result, _ = built
    entry = result.manifest.engines[0]
    inputs = seeded_inputs(toys.half(), seed=5)
    with open_backend("onnxruntime").load(result.directory / entry.file, entry.spec) as engine:
        actual = engine.run(inputs)["prediction"]
    np.testing.assert_allclose(actual, EagerEngine(toys.half()).run(inputs)["prediction"], rtol=1e-3, atol=1e-5)


def test_progress_tells_graph_phase_and_seconds(built) -> None:
    _, listener = built
    assert listener.stages == [("build", 2)]
    phases = [(info["graph"], info["phase"]) for _, info in listener.steps]
    assert phases == [(name, phase) for name in GRAPHS for phase in PHASES]
    assert sum(steps for steps, _ in listener.steps) == 2
    assert all(info["seconds"] > 0 for _, info in listener.steps if info["phase"] == "built")
    assert "does not exist" in listener.notes[0]


def test_current_set_is_reused(built) -> None:
    directory = built[0].directory
    before = (directory / "manifest.json").stat()
    listener = Listener()
    again = build(directory, listener=listener)
    assert again.reasons == ()
    assert (again.manifest, again.parity) == (built[0].manifest, built[0].parity)
    assert (directory / "manifest.json").stat().st_ino == before.st_ino
    assert listener.stages == [("check", 2)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "fp16"}, "precision: was fp32, now fp16"),
        ({"target": "cuda"}, "target: was cpu, now cuda"),
        ({"model": toys.MODEL | {"family": "other"}}, "model family: was toy, now other"),
        ({"graphs": {"update": toys.update}}, "graph half: no longer part of the model"),
        ({"graphs": {**GRAPHS, "encoder": toys.encoder}}, "graph encoder: new"),
        ({"graphs": {**GRAPHS, "half": lambda: toys.half(seed=1)}}, "weights of half: changed"),
        ({"graphs": {**GRAPHS, "half": lambda: with_activation(toys.half())}}, "graph half: changed"),
    ],
)
def test_reasons_are_named(built, monkeypatch, changes: dict[str, Any], reason: str) -> None:
    assert reasons_of(built[0].directory, monkeypatch, **changes) == (reason,)


def test_upgraded_tool_is_named(built, monkeypatch) -> None:
    tools = to_ort.OrtCompiler().tools()
    monkeypatch.setattr(to_ort.OrtCompiler, "tools", lambda self: tools | {"torch": "99"})
    assert reasons_of(built[0].directory, monkeypatch) == (f"tool torch: was {tools['torch']}, now 99",)


def test_changed_byte_is_a_reason(built, monkeypatch, tmp_path) -> None:
    for path in built[0].directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "half.onnx").open("r+b") as file:
        file.seek(30)
        file.write(b"?")
    (reason,) = reasons_of(tmp_path, monkeypatch)
    assert "half.onnx: is not the file that was built" in reason


def with_activation(graph: Graph) -> Graph:
    graph.module.network.activation = nn.functional.relu
    return graph


def reasons_of(directory: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[str, ...]:
    """The reasons told for a rebuild, which is stopped before it begins."""

    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(to_ort, "WeightFile", stop)
    listener = Listener()
    with pytest.raises(Stopped):
        build(directory, listener=listener, **changes)
    return tuple(note.removeprefix("building: ") for note in listener.notes)


@pytest.mark.parametrize("error", [RuntimeError("no weights"), KeyboardInterrupt()])
def test_error_in_the_middle_leaves_what_was_there(tmp_path, error: BaseException) -> None:
    first = build(tmp_path / "toy", {"update": toys.update})
    for directory in (tmp_path / "toy", tmp_path / "new"):
        with pytest.raises(type(error)):
            build(directory, {"half": raising(error)})
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert admit(tmp_path / "toy") == first.manifest


def test_stopped_build_goes_on(tmp_path) -> None:
    graphs = {"update": toys.update, "half": raising(KeyboardInterrupt()), "encoder": toys.encoder}
    with pytest.raises(StoppedError, match="stopped with 1 of 3 engines finished; the same command goes on from there"):
        build(tmp_path / "toy", graphs)
    assert not (tmp_path / "toy").exists()
    result = build(tmp_path / "toy", {**graphs, "half": toys.half})
    assert [(row.graph, row.action) for row in result.outcomes] == [
        ("update", "reused"),
        ("half", "built"),
        ("encoder", "built"),
    ]
    assert result.outcomes[0].reason == "graph update: was finished by a build that was stopped"
    assert [row.graph for row in result.parity] == ["update", "half", "encoder"]
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_graph_that_fails_does_not_stop_the_others(tmp_path) -> None:
    graphs = {"half": raising(ExportError("graph 'half': crashed; its log ends: oh")), "update": toys.update}
    listener = Listener()
    with pytest.raises(ExportError, match=r"1 of 2 engines failed, 1 are kept and .* its log ends: oh"):
        build(tmp_path / "toy", graphs, listener)
    assert "failed: graph 'half': crashed; its log ends: oh" in listener.notes
    result = build(tmp_path / "toy", GRAPHS)
    assert [row.action for row in result.outcomes] == ["built", "reused"]


def test_only_what_is_stale_is_built(tmp_path) -> None:
    """The rest is taken over, weights included, and still runs; nothing is kept of what it replaces."""
    graphs = {"half": toys.half, "step": toys.step}
    first = build(tmp_path / "toy", graphs)
    again = build(tmp_path / "toy", {**graphs, "step": lambda: toys.step(seed=1)})
    assert again.reasons == ("weights of step: changed",)
    assert [row.action for row in again.outcomes] == ["reused", "built"]
    assert again.manifest.engines[0] == first.manifest.engines[0]
    assert again.manifest.files["weights.bin"].bytes > first.manifest.files["weights.bin"].bytes
    back = build(tmp_path / "toy", graphs)
    assert back.manifest.files == first.manifest.files
    inputs = seeded_inputs(toys.half(), seed=5)
    with open_backend("onnxruntime").load(tmp_path / "toy" / "half.onnx", first.manifest.engines[0].spec) as engine:
        actual = engine.run(inputs)["prediction"]
    np.testing.assert_allclose(actual, EagerEngine(toys.half()).run(inputs)["prediction"], rtol=1e-3, atol=1e-5)


def test_engines_survive_another_declaration(tmp_path) -> None:
    first = build(tmp_path / "toy")
    again = build(tmp_path / "toy", model=toys.MODEL | {"name": "other"})
    assert again.reasons == ("model name: was toy, now other",)
    assert {row.action for row in again.outcomes} == {"reused"}
    assert (again.manifest.files, again.manifest.model["name"]) == (first.manifest.files, "other")


def test_several_compilers_at_once(tmp_path) -> None:
    both = EngineSetBuild.of(toys.MODEL, GRAPHS, "onnxruntime", "fp32", "cpu", tmp_path / "toy").run(jobs=2)
    assert [row.action for row in both.outcomes] == ["built", "built"]
    assert admit(tmp_path / "toy") == both.manifest


def test_only_one_graph(tmp_path) -> None:
    made = EngineSetBuild.of(toys.MODEL, GRAPHS, "onnxruntime", "fp32", "cpu", tmp_path / "toy")
    with pytest.raises(StoppedError, match="1 of 2 engines are finished"):
        made.run(only=["update"])
    assert not (tmp_path / "toy").exists()
    assert [row.action for row in made.run(only=["half"]).outcomes] == ["built", "reused"]


def test_two_builds_at_once(tmp_path) -> None:
    """The second waits, and finds all done."""
    listener = Listener()
    with ThreadPoolExecutor(2) as pool:
        results = [*pool.map(lambda _: build(tmp_path / "toy", {"update": toys.update}, listener), range(2))]
    assert sorted(len(result.reasons) for result in results) == [0, 1]
    assert f"waiting for another build of {tmp_path / 'toy'} to end" in listener.notes


def raising(error: BaseException) -> GraphMaker:
    def graph() -> Graph:
        raise error

    return graph


def test_rebuild_takes_the_place_of_the_old_set(tmp_path) -> None:
    build(tmp_path / "toy", {"update": toys.update})
    (tmp_path / "toy" / "update.onnx").unlink()
    again = build(tmp_path / "toy", {"update": toys.update})
    assert "update.onnx: is missing" in again.reasons[0]
    admit(tmp_path / "toy")
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_engine_out_of_parity_is_not_kept(tmp_path, monkeypatch) -> None:
    def wrong(model, path, weights):
        for value in model.graph.initializers.values():
            if value.name.endswith("bias"):
                value.const_value = ir.tensor(value.const_value.numpy() * 1.5, name=value.name)
        return save(model, path, weights)

    save = to_ort.save_onnx
    monkeypatch.setattr(to_ort, "save_onnx", wrong)
    with pytest.raises(ExportError, match=r"graph 'encoder': the engine differs from the fp32 module"):
        build(tmp_path / "toy", {"encoder": toys.encoder})
    assert list(tmp_path.iterdir()) == []


def test_parity_can_be_left_out_and_made_up_for(tmp_path) -> None:
    without = build(tmp_path / "toy", {"update": toys.update}, check_parity=False)
    assert without.parity == ()
    assert not (without.directory / "parity.json").exists()
    assert build(tmp_path / "toy", {"update": toys.update}).reasons == ("reference: was not made",)


def test_folder_of_somebody_else_is_not_replaced(tmp_path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    with pytest.raises(UsageError, match="not an engine set"):
        build(tmp_path)
    assert (tmp_path / "photo.jpg").is_file()


def test_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="cannot be written"):
        build(tmp_path / "file" / "toy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "onyx"}, "'onyx' has no compiler; choose one of inductor, onnxruntime, tensorrt"),
        ({"target": "sm_89"}, "target 'sm_89' cannot be built for onnxruntime; choose one of cpu, cuda"),
        ({"target": "cpu+cuda"}, "target 'cpu[+]cuda' cannot be built for onnxruntime"),
        ({"precision": "fp8"}, "precision 'fp8' cannot be built for onnxruntime"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path / "toy", **changes)


def test_graph_listed_under_another_name(tmp_path) -> None:
    with pytest.raises(ExportError, match="'update' is listed as 'other'"):
        build(tmp_path / "toy", {"other": toys.update})


def test_set_for_cuda_is_built_without_a_card_and_opened_on_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort.runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    result = build(tmp_path / "toy", target="cuda", precision="fp16")
    assert result.manifest.target == "cuda"
    assert result.parity == ()
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        EngineSet.open(result.directory)
    monkeypatch.setattr(ort.runtime(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert to_ort.compiler().runs_here("cuda")
