import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import toys

from stt2v.engine.backends import open_backend
from stt2v.export import to_onnx
from stt2v.export.activations import activation_bytes
from stt2v.export.capture import program_from_graph
from stt2v.export.eager import EagerEngine
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.precision import in_precision
from stt2v.export.qdq import HEADROOM, KINDS, calibrated
from stt2v.export.reference import seeded_inputs
from stt2v.export.to_onnx import halve_weights, onnx_from_program, save_onnx
from stt2v.export.weight_file import WeightFile

SHARED = ("step", "half", "encoder")


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    directory = tmp_path_factory.mktemp("set")
    specs, sizes = {}, {}
    with WeightFile(directory / "weights.bin") as weights:
        for name in SHARED:
            program = program_from_graph(toys.GRAPHS[name]())
            specs[name] = program.spec
            save_onnx(onnx_from_program(program), directory / f"{name}.onnx", weights)
            sizes[name] = (directory / "weights.bin").stat().st_size
    return directory, specs, sizes


@pytest.mark.parametrize("name", SHARED)
def test_onnx_is_valid_and_in_parity(engines, name) -> None:
    directory, specs, _ = engines
    onnx.checker.check_model(directory / f"{name}.onnx", full_check=True)
    engine = open_backend("onnxruntime").load(directory / f"{name}.onnx", specs[name])
    parity = toys.parity_of(engine, toys.GRAPHS[name](), "fp32")
    assert parity.passed
    assert parity.rel <= 1e-4


def test_step_and_half_cost_their_weights_once(engines) -> None:
    _, _, sizes = engines
    assert sizes["step"] > 0
    assert sizes["half"] == sizes["step"]


def test_weights_are_outside(engines) -> None:
    directory, _, _ = engines
    model = onnx.load(directory / "step.onnx", load_external_data=False)
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) * 4 > 1024]
    assert large
    assert {entry.value for tensor in large for entry in tensor.external_data if entry.key == "location"} == {
        "weights.bin"
    }


def test_file_names_no_path_of_the_machine(engines) -> None:
    directory, _, _ = engines
    assert b".py" not in (directory / "step.onnx").read_bytes()


def test_half_precision_in_parity(tmp_path) -> None:
    program = program_from_graph(in_precision(toys.step(), "fp16"))
    with WeightFile(tmp_path / "weights.bin") as weights:
        save_onnx(onnx_from_program(program), tmp_path / "step.onnx", weights)
    engine = open_backend("onnxruntime").load(tmp_path / "step.onnx", program.spec)
    parity = toys.parity_of(engine, toys.step(), "fp16")
    assert parity.passed
    assert parity.rel > 1e-6


def test_what_float16_holds_is_kept_in_it_and_computes_the_same(tmp_path) -> None:
    sizes, results = {}, {}
    for name, halved in (("whole", False), ("half", True)):
        graph = toys.GRAPHS["half"]()
        with torch.no_grad():
            for weight in graph.module.parameters():
                weight.copy_(weight.half())
        program = program_from_graph(graph)
        model = onnx_from_program(program)
        if halved:
            halve_weights(model)
        with WeightFile(tmp_path / f"{name}.bin") as file:
            save_onnx(model, tmp_path / f"{name}.onnx", file)
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
        sizes[name] = (tmp_path / f"{name}.bin").stat().st_size
        engine = open_backend("onnxruntime").load(tmp_path / f"{name}.onnx", program.spec)
        results[name] = engine.run(seeded_inputs(graph))["prediction"]
    assert sizes["half"] < 0.7 * sizes["whole"]  # tensors begin at multiples of 64 bytes
    assert np.array_equal(results["half"], results["whole"])


def test_weights_beyond_two_gigabytes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(to_onnx, "SMALL", 64)  # the toy's weights are small
    program = program_from_graph(toys.encoder())
    with WeightFile(tmp_path / "weights.bin") as weights:
        weights._file.seek(3 << 30)  # a sparse file: as far along as with the published weights, but free
        save_onnx(onnx_from_program(program), tmp_path / "encoder.onnx", weights)
    model = onnx.load(tmp_path / "encoder.onnx", load_external_data=False)
    places = [
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "offset"
    ]
    assert places
    assert min(map(int, places)) >= 3 << 30
    engine = open_backend("onnxruntime").load(tmp_path / "encoder.onnx", program.spec)
    assert toys.parity_of(engine, toys.encoder(), "fp32").passed


def test_activations_are_the_largest_live_set() -> None:
    floats = 4 * np.prod(toys.LATENTS)
    used = activation_bytes(onnx_from_program(program_from_graph(toys.update())))
    assert 2 * floats <= used < 6 * floats


def test_equal_contents_share_a_place_and_large_ones_are_aligned(tmp_path) -> None:
    small, large = np.arange(100, dtype=np.uint8), np.ones((1024, 300), np.float32)
    with WeightFile(tmp_path / "weights.bin") as weights:
        first, second = weights.place(small), weights.place(large)
        assert weights.place(small.copy()) == first == (0, 100)
        assert weights.place(large.T.reshape(1024, 300)) == second
    assert second[0] % 4096 == 0
    stored = np.fromfile(tmp_path / "weights.bin", np.float32, offset=second[0])
    np.testing.assert_array_equal(stored.reshape(1024, 300), large)


def test_layers_in_fp8_are_as_far_off_as_its_format() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.Flatten(2), torch.nn.Linear(512, 32))
    graph = Graph("layers", layers, {"input": torch.zeros(2, 32, 16, 32)}, ("y",))
    program, inputs = program_from_graph(graph), seeded_inputs(graph)
    flat = flatten(program.exported)
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    every = dict.fromkeys(KINDS, 1)
    assert calibrated(flat, tensors, ("p_0_weight",), every).keys() == set()  # the rows of the other are too few
    scales = calibrated(flat, tensors, (), every)
    assert scales == {"conv2d": pytest.approx(HEADROOM * np.abs(inputs["input"]).max() / 448)}
    model = onnx_from_program(program, scales)
    kinds = [node.op_type for node in model.graph]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (1, 2)
    (actual,) = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(["y"], inputs)
    (expected,) = EagerEngine(graph, program.spec).run(inputs).values()
    assert 0.01 < np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.05
