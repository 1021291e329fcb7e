"""StreamingT2V: every graph at toy width, captured and run by ONNX Runtime, against the modules themselves."""

import numpy as np
import pytest
from toys import checked_by_onnx_runtime

from stt2v.engine.models.streaming_t2v import StreamingT2vConditions
from stt2v.engine.stages.denoise import FusedStep, HalvedStep
from stt2v.export.eager import EagerEngine
from stt2v.export.families.streaming_t2v import TOY, Config, Networks, graphs, random_networks
from stt2v.export.graph import GraphMaker
from stt2v.export.reference import seeded_inputs

CONFIG = Config(frames=4, conditional=2, height=32, width=48, decode_group=4)
STEPS = ("first_step", "first_half", "first_update", "step", "half", "update")
NAMES = ("text_encoder", "anchor", "first_conditions", "conditions", *STEPS, "vae_decode_4")
TWINS = ("first_half", "half", "first_update")  # much as first_step, step and update


@pytest.fixture(scope="session")
def networks() -> Networks:
    return random_networks(TOY, seed=0)


@pytest.fixture(scope="session")
def makers(networks: Networks) -> dict[str, GraphMaker]:
    return graphs(networks, CONFIG)


def test_names(makers: dict[str, GraphMaker]) -> None:
    assert tuple(makers) == NAMES
    assert [maker().name for maker in makers.values()] == list(NAMES)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in TWINS)) for n in NAMES])
def test_onnx_runtime_equals_eager(makers: dict[str, GraphMaker], name: str) -> None:
    checked_by_onnx_runtime(makers[name]())


def test_halves_equal_the_fused_step(makers: dict[str, GraphMaker]) -> None:
    fused, half, update = (EagerEngine(makers[name]()) for name in ("step", "half", "update"))
    inputs = seeded_inputs(makers["step"]())
    shared = [inputs.pop(name) for name in ("x", "coefficients", "guidance")]
    updates = {"noise": inputs.pop("noise")}
    pairs = [step(*shared, inputs, updates) for step in (FusedStep(fused), HalvedStep(half, update))]
    for whole, halved in zip(*pairs, strict=True):
        np.testing.assert_allclose(whole, halved, rtol=0, atol=1e-5 * np.abs(np.asarray(whole)).max())


@pytest.fixture(scope="session")
def engines(makers: dict[str, GraphMaker]) -> dict[str, EagerEngine]:
    return {name: EagerEngine(makers[name]()) for name in ("anchor", "first_conditions", "conditions")}


def test_anchor_changes_the_context_by_way_of_apm(engines: dict[str, EagerEngine], networks: Networks) -> None:
    random = np.random.default_rng(0)
    text = random.standard_normal((2, 77, 16), np.float32)
    control = random.uniform(-1, 1, (2, 3, 32, 48)).astype(np.float32)
    anchors = random.uniform(-1, 1, (2, 1, 3, 32, 48)).astype(np.float32)
    one, other = (StreamingT2vConditions(engines, [text]).streaming(1, control, anchor) for anchor in anchors)
    uncond, cond = np.abs(np.asarray(one["context"]) - np.asarray(other["context"])).max(axis=(1, 2))
    assert uncond == 0
    assert cond > 0
    switched_off = {name: mix.alpha.clone() for name, mix in networks.unet.apm.named_children()}
    try:
        for mix in networks.unet.apm:
            mix.alpha.zero_()
        one, other = (StreamingT2vConditions(engines, [text]).streaming(1, control, anchor) for anchor in anchors)
        np.testing.assert_array_equal(one["context"], other["context"])
    finally:
        for name, mix in networks.unet.apm.named_children():
            mix.alpha.copy_(switched_off[name])


def test_toy_is_small(networks: Networks) -> None:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in vars(networks).items()}
    assert sum(parts.values()) - 49408 * 16 < 3_000_000, parts  # the vocabulary is the published one
