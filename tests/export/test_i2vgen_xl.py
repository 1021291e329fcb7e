"""I2VGen-XL: keys of the checkpoint, equality with diffusers' class, and every graph in ONNX Runtime."""

import os
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from toys import parity_of

from stt2v.engine.backends import open_backend
from stt2v.engine.errors import ExportError
from stt2v.export.capture import program_from_graph
from stt2v.export.families.i2vgen_xl import PUBLISHED, TOY, random_weights, toy_graphs
from stt2v.export.models.i2vgen_xl import I2VGenXLNetwork, WindowConditions
from stt2v.export.precision import in_precision
from stt2v.export.to_onnx import onnx_from_program
from stt2v.export.weights.i2vgen_xl import load_component, original_shapes

ROOT = Path(__file__).resolve().parents[2]
KEYS = Path(os.environ.get("STT2V_GOLDEN", ROOT.parent / "shared" / "golden")) / "enhance" / "checkpoint_keys.tsv"
GRAPHS = toy_graphs(width=128, height=80, windows=(3,)).makers()


@pytest.mark.skipif(not KEYS.is_file(), reason=f"no reference data at {KEYS}")
def test_every_published_key_is_mapped() -> None:
    rows = [line.split("\t") for line in KEYS.read_text().splitlines()[1:]]
    shapes = {key: [int(n) for n in shape.split("x")] for key, shape, *_ in rows}
    checkpoint = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    unet = load_component("unet", PUBLISHED.unet, checkpoint)
    assert sum(p.numel() for p in unet.parameters()) == 1_420_469_224
    assert {key: list(shape) for key, shape in original_shapes("unet", PUBLISHED.unet).items()} == shapes


def test_towers_of_the_published_size() -> None:
    """Parameters of OpenCLIP's ViT-H/14 towers and of Stable Diffusion's autoencoder."""
    counts = {
        name: sum(torch.Size(shape).numel() for shape in original_shapes(name, getattr(PUBLISHED, name)).values())
        for name in ("text_encoder", "image_encoder", "vae")
    }
    assert counts == {"text_encoder": 352_984_064, "image_encoder": 632_076_800, "vae": 83_653_863}


def test_keys_missing_and_over_are_refused() -> None:
    state = dict(random_weights(TOY, 0)("vae"))
    with pytest.raises(ExportError, match="over 1 keys"):
        load_component("vae", TOY.vae, {**state, "extra": torch.ones(1)})
    del state["quant_conv.bias"]
    with pytest.raises(ExportError, match="missing 1 keys"):
        load_component("vae", TOY.vae, state)


@pytest.mark.parametrize("component", ["text_encoder", "image_encoder"])
def test_stored_counters_are_no_weights(component: str) -> None:
    config, state = getattr(TOY, component), dict(random_weights(TOY, 0)(component))
    part = {"text_encoder": "text_model", "image_encoder": "vision_model"}[component]
    counted = {**state, f"{part}.embeddings.position_ids": torch.arange(77)[None]}
    tower = load_component(component, config, counted)
    assert not any(buffer.is_meta for buffer in tower.buffers())


@torch.no_grad()
@pytest.mark.parametrize("size", [(10, 16), (6, 9)])
def test_network_equals_diffusers(size: tuple[int, int]) -> None:
    """One context a clip, and conditions worked out once, give what diffusers gives with everything repeated."""
    random = torch.Generator().manual_seed(0)
    state = random_weights(TOY, 0)("unet")
    x, told = torch.randn(2, 2, 3, 4, *size, generator=random).unbind()
    text, embedding = torch.randn(2, 77, 16, generator=random), torch.randn(2, 1, 16, generator=random)
    whole = I2VGenXLUNet(**TOY.unet).eval()
    whole.load_state_dict(state)
    fps, timestep = torch.full((2,), 38.0), torch.tensor(925.0)
    expected = whole(x.transpose(1, 2), timestep, fps, told.transpose(1, 2), embedding, text).sample.transpose(1, 2)
    unet = load_component("unet", TOY.unet, state)
    names = ("context", "fps_embedding", "image_maps")
    conditions = dict(zip(names, WindowConditions(unet)(text, embedding, told, fps), strict=True))
    torch.testing.assert_close(I2VGenXLNetwork(unet)(x, timestep, **conditions), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_halves_may_share_conditions() -> None:
    unet = load_component("unet", TOY.unet, random_weights(TOY, 0)("unet"))
    conditions = WindowConditions(unet)
    text, embedding, told = torch.randn(2, 77, 16), torch.randn(2, 1, 16), torch.randn(1, 3, 4, 8, 8)
    shared = conditions(text, embedding, told, torch.full((1,), 38.0))
    apart = conditions(text, embedding, told.expand(2, -1, -1, -1, -1), torch.full((2,), 38.0))
    for one, two in zip(shared, apart, strict=True):
        torch.testing.assert_close(one.expand_as(two), two)


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx_runtime_equals_eager(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]()
    program = program_from_graph(graph)
    ir.save(onnx_from_program(program), tmp_path / "graph.onnx")
    engine = open_backend("onnxruntime").load(tmp_path / "graph.onnx", program.spec)
    parity = parity_of(engine, graph, "fp32")
    assert parity.rel <= 1e-4


@pytest.mark.parametrize("name", ["enhance_3_conditions", "enhance_3_half"])
def test_half_precision_is_captured(name: str) -> None:
    program = program_from_graph(in_precision(GRAPHS[name](), "fp16"))
    assert {tensor.dtype for tensor in (*program.spec.inputs, *program.spec.outputs)} == {"float32"}
