"""vid2vid: every graph at toy width, captured and run by ONNX Runtime, against the modules themselves."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from stt2v.engine.stages.denoise import FusedStep, HalvedStep
from stt2v.export.capture import program_from_graph
from stt2v.export.eager import EagerEngine
from stt2v.export.families.vid2vid import toy_graphs
from stt2v.export.graph import GraphMaker
from stt2v.export.reference import seeded_inputs
from stt2v.export.to_onnx import onnx_from_program

NAMES = ("text_encoder", "vae_encode", "vae_decode", "conditions", "3_step", "3_half", "3_update")


@pytest.fixture(scope="module")
def makers() -> dict[str, GraphMaker]:
    return toy_graphs(32, 48, (3,)).makers()  # latents of 6 rows, 4 on the second level


def test_names(makers: dict[str, GraphMaker]) -> None:
    assert tuple(makers) == tuple(f"enhance_{name}" for name in NAMES)
    assert [maker().name for maker in makers.values()] == list(makers)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "3_half")) for n in NAMES])
def test_onnx_runtime_equals_eager(makers: dict[str, GraphMaker], name: str) -> None:
    graph = makers[f"enhance_{name}"]()
    program = program_from_graph(graph)
    session = onnxruntime.InferenceSession(ir.to_proto(onnx_from_program(program)).SerializeToString())
    inputs = seeded_inputs(graph)
    actual = session.run(list(graph.outputs), inputs)
    expected = EagerEngine(graph, program.spec).run(inputs)
    for output, value in zip(actual, expected.values(), strict=True):
        np.testing.assert_allclose(output, value, rtol=0, atol=1e-4 * np.abs(value).max())


def test_halves_equal_the_fused_step(makers: dict[str, GraphMaker]) -> None:
    fused, half, update = (EagerEngine(makers[f"enhance_3_{name}"]()) for name in ("step", "half", "update"))
    inputs = seeded_inputs(makers["enhance_3_step"]())
    shared = [inputs.pop(name) for name in ("x", "coefficients", "guidance")]
    updates = {name: inputs.pop(name) for name in ("noise", "x0_previous")}
    pairs = [step(*shared, inputs, updates) for step in (FusedStep(fused), HalvedStep(half, update))]
    for whole, halved in zip(*pairs, strict=True):
        np.testing.assert_allclose(whole, halved, rtol=0, atol=1e-5 * np.abs(np.asarray(whole)).max())
