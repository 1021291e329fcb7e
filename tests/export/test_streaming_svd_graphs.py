"""StreamingSVD: every graph at toy width, captured and run by ONNX Runtime, against the modules themselves."""

import numpy as np
import pytest
import torch
from toys import checked_by_onnx_runtime

from stt2v.engine.stages.denoise import FusedStep, HalvedStep
from stt2v.export.eager import EagerEngine
from stt2v.export.families.streaming_svd import TINY, Config, Networks, graphs, random_networks
from stt2v.export.graph import GraphMaker
from stt2v.export.reference import seeded_inputs

CONFIG = Config(frames=9, conditional=2, height=32, width=48, decode_group=8)
NAMES = (
    "image_encoder",
    "vae_encode",
    "first_conditions",
    "conditions",
    "first_step",
    "first_half",
    "step",
    "half",
    "update",
    "vae_decode_8",
    "vae_decode_1",
)

TWINS = ("first_step", "half", "vae_decode_1")  # much as first_half, step and vae_decode_8


@pytest.fixture(scope="session")
def networks() -> Networks:
    return random_networks(TINY, seed=0)


@pytest.fixture(scope="session")
def makers(networks: Networks) -> dict[str, GraphMaker]:
    return graphs(networks, CONFIG)


def test_names(makers: dict[str, GraphMaker]) -> None:
    assert tuple(makers) == NAMES


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in TWINS)) for n in NAMES])
def test_onnx_runtime_equals_eager(makers: dict[str, GraphMaker], name: str) -> None:
    model = checked_by_onnx_runtime(makers[name]())
    # What only the constants need, and the dead half of cross-attention, is no part of an engine.
    assert not [key for key in model.graph.initializers if ".attn2." in key]


def test_halves_equal_the_fused_step(makers: dict[str, GraphMaker]) -> None:
    fused, half, update = (EagerEngine(makers[name]()) for name in ("step", "half", "update"))
    inputs = seeded_inputs(makers["step"]())
    shared = {name: inputs.pop(name) for name in ("x", "coefficients", "guidance")}
    steps = FusedStep(fused), HalvedStep(half, update)
    pairs = [step(shared["x"], shared["coefficients"], shared["guidance"], inputs, {}) for step in steps]
    for whole, halved in zip(*pairs, strict=True):
        np.testing.assert_allclose(whole, halved, rtol=0, atol=1e-5 * np.abs(np.asarray(whole)).max())


def test_guidance_of_one_is_the_conditional_half(makers: dict[str, GraphMaker]) -> None:
    graph = makers["first_step"]()
    inputs = seeded_inputs(graph) | {"guidance": np.ones(CONFIG.frames, np.float32)}
    engine = EagerEngine(graph)
    before = engine.run(inputs)["x_next"]
    inputs["image_latent"] = np.concatenate([inputs["image_latent"][1:], inputs["image_latent"][1:]])
    after = engine.run(inputs)["x_next"]
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-5 * np.abs(np.asarray(before)).max())


def test_same_seed_same_weights(networks: Networks) -> None:
    again, other = random_networks(TINY, seed=0), random_networks(TINY, seed=1)
    key = "output_blocks.0.0.spatial_res_block.conv1.weight"
    assert torch.equal(networks.unet.state_dict()[key], again.unet.state_dict()[key])
    assert not torch.equal(networks.unet.state_dict()[key], other.unet.state_dict()[key])


def test_tiny_is_small(networks: Networks) -> None:
    assert sum(parameter.numel() for part in vars(networks).values() for parameter in part.parameters()) < 3_000_000
